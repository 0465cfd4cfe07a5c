"""The training of a run: setup, encoding, the three stages, validation. Imports everything but the drivers above."""
