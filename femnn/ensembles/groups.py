"""Groups of ranks, each with some members of an ensemble, and sums over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import firedrake as fd
import numpy as np
from mpi4py import MPI

from femnn.parallel import any_rank, gathered, sum_over_ranks
from femnn.tape.counts import Budget, count_elsewhere


@dataclass(frozen=True)
class Failure:
    """What went wrong with one member.

    Attributes
    ----------
    member
        Its place.
    error
        What was raised.
    """

    member: int
    error: Exception


class Groups:
    """Groups of ranks of equal size.  Collective.

    Parameters
    ----------
    comm
        All ranks.
    size
        Number of ranks of each group.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        All ranks.
    group : mpi4py.MPI.Comm
        This rank's group.
    number : int
        Number of groups.

    Raises
    ------
    ValueError
        If the ranks cannot be divided so.
    """

    def __init__(self, comm: MPI.Comm, size: int):
        if size < 1 or comm.size % size:
            raise ValueError(
                f"ensemble got ranks_per_member={size} on {comm.size} ranks: wanted a divisor of "
                "the number of ranks, so that all of them have work."
            )
        self.comm, self.number = comm, comm.size // size
        self._index = comm.rank // size
        self._split: fd.Ensemble | None = None  # which frees its communicators with it
        if self.number == 1:
            self.group = comm
        elif size == 1:
            self.group = MPI.COMM_SELF
        else:
            self._split = fd.Ensemble(comm, size)
            self.group, self._index = self._split.comm, self._split.ensemble_rank

    def own(self, n_members: int) -> range:
        """The places of the members of this rank's group, perhaps none."""
        return range(self._index, n_members, self.number)

    def sum(
        self, local: np.ndarray, spent: Budget | None = None, failure: Failure | None = None
    ) -> np.ndarray:
        """The sum over groups, or the error of one of them on all ranks.  Collective.

        Parameters
        ----------
        local
            This group's part, shape ``(n,)``, equal on all its ranks; where there is one group
            only, it may be rank-local, and is what is returned.
        spent
            What this group has solved for it; all ranks then count what all groups have.
        failure
            What went wrong in this group.

        Raises
        ------
        firedrake.ConvergenceError
            If solves have failed, and nothing else.
        RuntimeError
            If a member has raised another error, on other ranks; on its own the error itself.
        """
        used, solves = (0, 0) if spent is None else (spent.used, spent.solves)
        if self.number == 1:
            self.agree(failure)
            return local
        told = np.array([used, solves, failure is not None], dtype=float)
        part = np.concatenate([local, told]) if self.group.rank == 0 else np.zeros(len(local) + 3)
        part[-1] = told[-1]
        total = sum_over_ranks(self.comm, part)
        if total[-1]:
            self._raise(failure)
        count_elsewhere(int(total[-3]) - used, int(total[-2]) - solves)
        return total[:-3]

    def agree(self, failure: Failure | None) -> None:
        """Raise on all ranks what has gone wrong on one; see :meth:`sum`.  Collective."""
        if any_rank(self.comm, failure is not None):
            self._raise(failure)

    def _raise(self, failure: Failure | None) -> None:
        """The same kind of error on all ranks, the gravest that there is."""
        error = None if failure is None else failure.error
        mild = isinstance(error, fd.ConvergenceError)
        said = None if failure is None else (failure.member, mild, _first_line(failure.error))
        known = [s for s in gathered(self.comm, said) if s is not None]
        grave = [s for s in known if not s[1]]
        if not grave:
            member, _, text = min(known)
            raise fd.ConvergenceError(f"member {member} of the ensemble: {text}") from error
        if failure is not None and error is not None and not mild:
            error.add_note(f"It was member {failure.member} of the ensemble.")
            raise error
        member, _, text = min(grave)
        raise RuntimeError(
            f"member {member} of the ensemble has raised an error on another rank: {text}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
