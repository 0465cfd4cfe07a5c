"""Judge the hands of any folder of images: people and other judges, and how far they agree.

Imports `evaluation`, and of `handdata` the client of language models.
"""
