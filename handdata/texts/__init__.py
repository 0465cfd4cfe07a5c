"""Captions and hand-aware texts: captioners, language models, prompts, and the checks of every text."""
