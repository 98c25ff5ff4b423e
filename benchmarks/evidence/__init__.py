"""What retraining is worth, measured: `python -m benchmarks.evidence PART`."""
