"""Where a loader stands and how it goes on from there: states, cursors, epochs of different
lengths.
"""
