"""Weights of models on the Hub: their files, hashes, sizes, licences and gates. For the texts, and for plans."""
