"""What a model takes where it runs: which devices it fits, how fast it is, what memory and energy it needs."""
