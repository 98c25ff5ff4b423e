"""Everything that trains: schedules, methods, the loop under masks and on grids, checkpoints, background runs."""
