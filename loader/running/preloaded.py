"""What the process that workers are forked from imports, once for all of them.

Nothing is to be imported from here. Objects that are there already are taken out of garbage
collection: a look at them in a worker would copy the memory that it shares with the others.
"""

import gc
import warnings

import roboshard.loader.running.in_worker

__all__ = ("roboshard",)

gc.collect()
gc.freeze()
# The threads are OpenBLAS's and jemalloc's, which both look after themselves in a fork.
warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")
