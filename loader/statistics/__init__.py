"""Statistics of what a loader loads.

collect    the numbers of a dataset's samples, from its rows; what it says of its pictures
measure    of one dataset, or of a mixture, its parts and its robots
relative   of actions as differences from the state
stored     in a file, for the other ranks of the node and for the next run
"""
