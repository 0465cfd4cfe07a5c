"""Train: encode a dataset once, then the three stages, validated and resumable."""
