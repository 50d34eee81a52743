"""The packages: every folder with Python files below these parts, as `roboshard.<folder>`."""

from setuptools import find_packages, setup

PARTS = ("common", "storage", "shards", "converter", "loader", "tools", "cli")

FOLDERS = find_packages(include=[name for part in PARTS for name in (part, f"{part}.*")])
setup(packages=[f"roboshard.{folder}" for folder in FOLDERS])
