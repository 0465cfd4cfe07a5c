"""Compare images: metrics, their intervals, and the networks that they are computed from.

Imports `data`, `method` and `model`.
"""
