"""HTTP for every part that sends requests: addresses without secrets, deadlines, caps and redirects.

May import `errors` and `shipped`.
"""
