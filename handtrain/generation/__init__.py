"""Generate images from a trained model or a base."""
