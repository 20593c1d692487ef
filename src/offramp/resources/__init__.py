"""What user code calls a resource with: clients whose every request takes a permit, and permits for all else."""
