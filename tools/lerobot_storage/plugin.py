"""Importing this tells LeRobot of the storage format, where it has a registry.

LeRobot's commands import the files of a package that they are told of:
`lerobot-train --dataset.discover_packages_path=roboshard.tools.lerobot_storage ...`.
"""

from contextlib import suppress

from roboshard.common.errors import OptionError
from roboshard.tools.lerobot_storage.registration import register

# No registry, no format: LeRobot says then that it knows none of that name.
with suppress(OptionError):
    register()
