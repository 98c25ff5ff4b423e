"""Looks at models and never touches them: layers, sketch, estimate, size."""
