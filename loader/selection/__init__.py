"""Which episodes and frames of a dataset are samples, and how often: from a user's words to
arrays.
"""
