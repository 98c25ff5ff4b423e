"""What retraining is worth, measured: `python -m benchmarks.retraining PART`."""
