"""Retraining under masks and on grids: schedules, methods, the loop, checkpoints, and runs in the background."""
