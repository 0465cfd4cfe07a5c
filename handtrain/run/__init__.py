"""A run: its folder, session, checkpoints, processes, device, cost and FLOP. Imports `data`, `method` and `model`."""
