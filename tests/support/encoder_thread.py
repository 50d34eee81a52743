"""Where encoders run: SVT-AV1, run as root, gives the thread that opens it real-time priority.

That thread's children inherit it, and nothing beside them can withstand them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def in_encoder_thread(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run each call of a function, which encodes, in a thread that ends with it."""

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        os.environ.setdefault("SVT_LOG", "1")  # errors only; read from C, once, at its first use
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, *args, **kwargs).result()

    return call
