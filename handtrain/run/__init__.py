"""A run: its folder, session, checkpoints, processes, device, cost and FLOP. Imports `method` and `model`."""
