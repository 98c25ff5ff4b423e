"""Evaluating (and, to come, retraining and transfer)."""
