"""Evaluation: data, predictions, labels, metrics with intervals."""
