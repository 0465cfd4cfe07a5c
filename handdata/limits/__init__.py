"""Limits that both programs share: the ranges of numbers that a user may give.

Imports errors alone.
"""
