"""Transfer learning: a new head, what of the backbone learns with it, and what that saved."""
