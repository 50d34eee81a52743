"""What else is done with a dataset, a folder a command: none knows of another, but for doctor of
verify.
"""
