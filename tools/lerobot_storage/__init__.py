"""Folders of shards as a storage format of LeRobot's own `LeRobotDataset`: read, and recorded into.

    meta_folder  meta/ as LeRobot reads it, made of dataset.json and the index
    localize     the same for shards that are far away, in a folder of this machine
    reader       samples by number, as LeRobot's own reader returns them
    staging      episodes that are recorded and not in shards yet: whole, or not there
    writer       a recorder's frames, encoded by LeRobot, staged, and then into shards
    backend      the module that LeRobot's registry names: its reader, its writer
    registration tells LeRobot of it; makes datasets that are recorded into shards
    plugin       the same on being imported, for LeRobot's commands

`recover` and `write_meta` do without LeRobot.
"""

from roboshard.tools.lerobot_storage.meta_folder import FORMAT, write_meta
from roboshard.tools.lerobot_storage.registration import create, register, resume
from roboshard.tools.lerobot_storage.staging import recover

__all__ = ["FORMAT", "create", "recover", "register", "resume", "write_meta"]
