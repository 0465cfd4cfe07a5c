"""Model files of other programs: the original layout of Stable Diffusion 1 and 2 in one file, and LoRA files."""
