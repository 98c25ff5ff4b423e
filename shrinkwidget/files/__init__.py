"""What is written and read: the packed format."""
