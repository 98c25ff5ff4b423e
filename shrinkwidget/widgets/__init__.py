"""Traits and threads, no mathematics."""
