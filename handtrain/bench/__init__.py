"""Benchmark of the training steps against a plain loop, that of the paper's released code.

Imports `method` and `run`.
"""
