"""The training of a run: setup, encoding, the three stages, validation. Imports all folders before it."""
