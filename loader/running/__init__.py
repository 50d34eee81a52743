"""Where the stages run: in threads or worker processes, from epoch to epoch, and how batches come
back.
"""
