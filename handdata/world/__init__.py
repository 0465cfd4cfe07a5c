"""The mini world: a small HaGRID of drawn hands, with the ground truth of every picture.

Imports `rows` and the modules of `handdata/` itself.
"""
