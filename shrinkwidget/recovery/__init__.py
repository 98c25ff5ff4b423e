"""Recovery without retraining: better codes for the same file, and statistics that fit them, from unlabelled data."""
