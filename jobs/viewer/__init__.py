"""`condinst view`: a run's tables in the browser."""
