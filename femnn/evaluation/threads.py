"""How many of torch's threads a sweep takes.  Needs torch only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below this many weights a chunk's work is too short to be shared: on two busy cores two threads
# took ten times as long as one for a network of a thousand weights (benchmarks/).
SHARED_FROM = 100_000


def threads_for(n_weights: int) -> int:
    """The number of threads for sweeps of a network with this many weights.

    One for small networks; for large ones those that torch has, at most this rank's share of the
    cores.
    """
    if n_weights < SHARED_FROM:
        return 1
    return min(torch.get_num_threads(), cores_of_rank())


def cores_of_rank() -> int:
    """The process's share of the cores it may use, by what its launcher says of its node."""
    cores = len(os.sched_getaffinity(0))
    # Ranks that are bound to cores see only their own.
    bound = cores < (os.cpu_count() or cores)
    return cores if bound else max(1, cores // local_ranks())


def local_ranks() -> int:
    """The number of processes on this node, by what the launcher says of it; 1 if it says nothing.

    Slurm's ``2(x3)`` counts as 2.
    """
    local = next((os.environ[name] for name in _LOCAL_RANKS if name in os.environ), "1")
    digits = local.split("(")[0].split(",")[0]
    return max(1, int(digits)) if digits.isdecimal() else 1


_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_TASKS_PER_NODE")


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use ``n`` threads, and its own number again afterwards."""
    own = torch.get_num_threads()
    if own == n:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(own)
