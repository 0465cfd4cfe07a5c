"""Generate images from a trained model or a base. Imports `data`, `method` and `model`."""
