"""What people run: job specs in YAML, and the `condinst` command."""
