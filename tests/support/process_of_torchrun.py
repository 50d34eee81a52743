"""Runs a program as a process of torchrun, and ends it before the interpreter is taken down.

Beneath DDP the threads of gloo outlive `destroy_process_group` (torch 2.13), and one of them may
still have to let go of a tensor of the last collective. It needs the interpreter's lock for that,
and where the machine is so busy that it comes too late, it ends the process: "terminate called
without an active exception".

python process_of_torchrun.py PROGRAM ARGUMENTS...
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys
from pathlib import Path

from roboshard.loader.order import teams

PREFIX = [str(Path(__file__))]
"""What torchrun is given before a program."""


def main() -> None:
    """Run the program, in which workers make steps together however small their pictures are.

    What it has registered for its end is done; its errors and its exit status stay.
    """
    teams.LEAST_PIXELS = 0
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
