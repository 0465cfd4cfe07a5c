"""The published dataset: its Parquet files, checksums, card, Croissant description, pictures and scores.

Imports `rows`, `texts` and the modules of `handdata/` itself.
"""
