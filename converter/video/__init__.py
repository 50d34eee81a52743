"""Slices of video files: which frame each row shows, and the packets to copy for it."""
