"""Planning for a budget: bit allocation by rate and distortion, and candidates judged by what a network computes."""
