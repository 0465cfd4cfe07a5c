"""Captions and hand-aware texts: captioners, language models, prompts, and the checks of every text.

Imports the modules of `handdata/` itself.
"""
