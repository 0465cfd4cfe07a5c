"""Model folders: the base, the pipeline, export and card, import of released checkpoints. Imports `method`."""
