"""Pictures that need no kernel."""
