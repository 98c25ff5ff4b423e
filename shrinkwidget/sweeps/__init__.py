"""Try many recipes on one model: here, on threads, or on the workers of a Dask cluster."""
