"""What works with whose models: a table made by trying them."""
