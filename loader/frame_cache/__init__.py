"""Pictures kept as they go into batches, for the epochs that follow.

layout     which pictures are kept, and where each of them lies: a pure function
store      the pictures of one camera in files: written, found again, checked
frames     all that a process keeps and finds, by the samples of a step

Every picture has its place from the beginning: that of its row among all rows of the dataset. So
processes that share the files agree on them without a word, and none ever waits for another.
"""
