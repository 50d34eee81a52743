"""Two machines that are none: network namespaces with an address each, and a cable between them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

INTERFACE = "node0"


@dataclass(frozen=True)
class Node:
    """A network of its own, on this machine."""

    namespace: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What a command is given to run there."""
        return ["ip", "netns", "exec", self.namespace]


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else; skips the test where none can be made."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: two nodes are network namespaces (apt-get install iproute2)")
    first, second = (
        Node(f"roboshard-{os.getpid()}-{number}", f"10.203.0.{number + 1}") for number in range(2)
    )
    with ExitStack() as made:
        for node in (first, second):
            added = _ip("netns", "add", node.namespace)
            if added.returncode:
                pytest.skip(f"network namespaces are not allowed here: {added.stderr.strip()}")
            made.callback(_ip, "netns", "del", node.namespace)
        cable = ["link", "add", INTERFACE, "type", "veth"]
        cable += ["peer", "name", INTERFACE, "netns", second.namespace]
        laid = _ip("-n", first.namespace, *cable)
        if laid.returncode:
            pytest.skip(f"no cable between network namespaces here: {laid.stderr.strip()}")
        for node in (first, second):
            for command in (
                ["addr", "add", f"{node.address}/24", "dev", INTERFACE],
                ["link", "set", INTERFACE, "up"],
                ["link", "set", "lo", "up"],
            ):
                done = _ip("-n", node.namespace, *command)
                assert done.returncode == 0, done.stderr
        yield first, second


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
