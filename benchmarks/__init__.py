"""Every speed and size the project promises, measured beside what a user would otherwise use: `make bench`."""
