"""Communication between ranks.  The only module with communication calls of its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from mpi4py import MPI

T = TypeVar("T")


def sum_over_ranks(comm: MPI.Comm, local: np.ndarray) -> np.ndarray:
    """The sum of ``local`` over all ranks, the same array on each.  Collective."""
    if comm.size == 1:
        return local
    total = np.empty_like(local)
    comm.Allreduce(np.ascontiguousarray(local), total, op=MPI.SUM)
    return total


def max_over_ranks(comm: MPI.Comm, local: float) -> float:
    """The largest of the ranks' numbers.  Collective."""
    return local if comm.size == 1 else float(comm.allreduce(local, op=MPI.MAX))


def range_over_ranks(comm: MPI.Comm, local: np.ndarray) -> np.ndarray:
    """Smallest and largest entry of each column over all ranks' rows, shape ``(columns, 2)``.

    NaN where an entry is NaN, or no rank has a row.  Collective.
    """
    ranges = np.stack([local.min(0, initial=np.inf), local.max(0, initial=-np.inf)], axis=1)
    if comm.size > 1:
        nan = np.isnan(ranges)  # MPI's own MAX need not keep them
        below, above = np.where(nan, -np.inf, ranges * (-1, 1)).T
        every = np.concatenate([below, above, nan.any(1)])
        comm.Allreduce(MPI.IN_PLACE, every, op=MPI.MAX)
        below, above, unknown = np.split(every, 3)
        ranges = np.stack([-below, above], axis=1)
        ranges[unknown > 0] = np.nan
    ranges[ranges[:, 0] > ranges[:, 1]] = np.nan
    return ranges


def all_ranks(comm: MPI.Comm, flag: bool) -> bool:
    """Whether ``flag`` is true on every rank.  Collective."""
    return not any_rank(comm, not flag)


def any_rank(comm: MPI.Comm | None, flag: bool) -> bool:
    """Whether ``flag`` is true on at least one rank; without ``comm``, on this.  Collective."""
    return any_rank_each(comm, [bool(flag)])[0]


def any_rank_each(comm: MPI.Comm | None, flags: Sequence[bool]) -> list[bool]:
    """Whether each flag is true on at least one rank; without ``comm``, on this.  Collective."""
    if comm is None or comm.size == 1 or not flags:
        return list(flags)
    result = np.array(flags, dtype=bool)
    comm.Allreduce(MPI.IN_PLACE, result, op=MPI.LOR)
    return result.tolist()


def raise_on_all_ranks(comm: MPI.Comm | None, failure: Exception | None, elsewhere: str) -> None:
    """Raise a rank's ``failure``, and on ranks without one an error that says ``elsewhere``.

    Collective.
    """
    if any_rank(comm, failure is not None):
        raise failure or RuntimeError(elsewhere)


OF_NETWORK = "a network raised an error on another rank: see that rank's message."


def raise_network_error(comm: MPI.Comm, failure: Exception | None) -> None:
    """Raise on every rank what a network has raised on one of them.  Collective."""
    raise_on_all_ranks(comm, failure, OF_NETWORK)


def on_all_ranks(
    comm: MPI.Comm, function: Callable[..., T], *args: Any, elsewhere: str = OF_NETWORK
) -> T:
    """Call a function on each rank; its error on one is one on all.  Collective.

    By default it is one that runs a network; ``elsewhere`` is what ranks without an error say.
    """
    result, failure = None, None
    try:
        result = function(*args)
    except Exception as error:
        failure = error
    raise_on_all_ranks(comm, failure, elsewhere)
    return cast(T, result)


def same_on_ranks(comm: MPI.Comm, data: bytes) -> bool:
    """Whether ``data`` is the same on every rank, by its checksum.  Collective."""
    if comm.size == 1:
        return True
    checksum = zlib.crc32(data)
    largest = np.array([checksum, -checksum], dtype=np.int64)
    comm.Allreduce(MPI.IN_PLACE, largest, op=MPI.MAX)
    return bool(largest[0] == -largest[1])


def gathered(comm: MPI.Comm, value: T) -> list[T]:
    """What each rank has as ``value``, in the ranks' order, on all.  Collective."""
    return [value] if comm.size == 1 else comm.allgather(value)


def from_rank_zero(comm: MPI.Comm, value: T) -> T:
    """What rank 0 has as ``value``.  Collective."""
    return value if comm.size == 1 else comm.bcast(value, root=0)


def vector_from_rank_zero(comm: MPI.Comm, vector: np.ndarray) -> np.ndarray:
    """Rank 0's float64 ``vector`` on all ranks; all must have its shape.  Collective."""
    if comm.size > 1:
        vector = np.array(vector, dtype=float)
        comm.Bcast(vector, root=0)
    return vector


def on_rank_zero(comm: MPI.Comm, function: Any, *args: Any) -> Any:
    """Call ``function`` on rank 0 only; its result, or its exception, comes on every rank."""
    result, error = None, None
    if comm.rank == 0:
        try:
            result = function(*args)
        except Exception as caught:
            error = caught
    result, error = from_rank_zero(comm, (result, error))
    if error is not None:
        raise error
    return result


def exchanged(comm: MPI.Comm, rows: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The rows that the ranks have for this one.  Collective.

    Parameters
    ----------
    comm
        The ranks.
    rows
        This rank's, of two dimensions; as many columns and the same dtype everywhere.
    to
        The rank that each row goes to.

    Returns
    -------
    numpy.ndarray
        Rows in no order that matters.
    """
    if comm.size == 1:
        return rows
    sent = np.bincount(to, minlength=comm.size)
    received = np.empty_like(sent)
    comm.Alltoall(sent, received)
    width = rows.shape[1]
    result = np.empty((received.sum(), width), dtype=rows.dtype)
    sorted_rows = rows[np.argsort(to, kind="stable")]
    comm.Alltoallv([sorted_rows, sent * width], [result, received * width])
    return result


class Pieces:
    """An array of which each rank holds a piece, one after the other in the ranks' order.

    Collective.

    Parameters
    ----------
    comm
        The ranks.
    length
        Length of this rank's piece.
    """

    def __init__(self, comm: MPI.Comm, length: int):
        self._comm = comm
        self._lengths = [length] if comm.size == 1 else comm.allgather(length)
        start = sum(self._lengths[: comm.rank])
        self._own = slice(start, start + length)

    def __len__(self) -> int:
        return sum(self._lengths)

    def gather(self, own: np.ndarray) -> np.ndarray:
        """The whole array, the same on every rank.  Collective.

        Parameters
        ----------
        own
            This rank's piece, of one dimension and the same dtype everywhere.
        """
        own = np.ascontiguousarray(own)
        if self._comm.size == 1:
            return own.copy()
        whole = np.empty(len(self), dtype=own.dtype)
        self._comm.Allgatherv(own, [whole, self._lengths])
        return whole

    @property
    def places(self) -> np.ndarray:
        """Where in the whole array this rank's piece stands, an integer for each entry."""
        return np.arange(self._own.start, self._own.stop)

    def own(self, whole: np.ndarray) -> np.ndarray:
        """A view of this rank's piece of the whole array."""
        return whole[self._own]
