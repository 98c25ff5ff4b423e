"""The engine and a retraining on a GPU, measured: `python -m benchmarks.gpu PART`."""
