"""The published dataset: its Parquet files, checksums, card, Croissant description, pictures and scores."""
