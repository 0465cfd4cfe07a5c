"""Models: a Stable Diffusion base, the pipeline with a gesture, and how a trained model is exported."""
