"""Callbacks for trainers of other libraries, each in a module of its library's name, imported by whoever uses it."""
