"""The training of a run: setup, encoding, the three stages, validation, early stopping.

Imports `data`, `method`, `model`, `run`, `generation` and `evaluation`.
"""
