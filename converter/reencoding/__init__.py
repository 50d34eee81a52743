"""Slices whose frames are encoded again, for cameras whose video is not copied."""
