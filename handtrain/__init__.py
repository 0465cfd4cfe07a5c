"""Fine-tune Stable Diffusion on 1,000 images of a hand gesture, generate and evaluate."""
