"""A model as other programs read it: diffusers folders, single files and LoRA files; the conversion of pickles."""
