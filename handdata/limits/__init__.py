"""Limits that both programs share: the ranges of numbers that a user may give, and the kinds of files with weights.

Imports errors alone.
"""
