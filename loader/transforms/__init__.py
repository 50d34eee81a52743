"""The user's transforms, and the random numbers that they draw."""
