"""LeRobot datasets as a conversion sees them: files, local or remote, and what their metadata
says.
"""
