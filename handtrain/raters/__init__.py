"""Other judges of hands than our metrics: people, and judges from other packages, and how far they agree.

Imports `evaluation`, and of `handdata` the client of language models.
"""
