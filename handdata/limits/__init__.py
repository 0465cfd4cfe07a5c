"""Limits that both programs share: the ranges of numbers that a user may give, and deadlines of requests.

Imports errors alone.
"""
