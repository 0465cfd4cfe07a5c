"""A run: its folder, checkpoints, processes, device, cost and floating-point operations."""
