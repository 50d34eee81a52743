"""The rows of a step and its delta windows, and which pictures it needs."""
