"""What tells whether something that was computed is still valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from femnn.parallel import all_ranks


@dataclass(frozen=True, eq=False)
class Stamp:
    """The values from which something was computed.

    Attributes
    ----------
    versions
        Of the private copies; they change with the copies' values only.
    iterate
        The unknown's values on this rank; ``None`` where they do not matter.
    """

    versions: tuple
    iterate: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamp) or self.versions != other.versions:
            return False
        if self.iterate is None or other.iterate is None:
            return self.iterate is other.iterate
        return np.array_equal(self.iterate, other.iterate)


class Validity:
    """Whether what its owner has computed is what would be computed now: the one test of it.

    Parameters
    ----------
    comm
        The ranks that have computed it together.
    """

    def __init__(self, comm: Any):
        self._comm = comm
        self._stamp: Stamp | None = None

    def holds(self, present: Stamp) -> bool:
        """Whether it is from the present values on all ranks.  Collective."""
        return all_ranks(self._comm, self.holds_here(present))

    def holds_here(self, present: Stamp) -> bool:
        """Whether it is on this rank."""
        return self._stamp == present

    def note(self, present: Stamp) -> None:
        """It has been computed from these values."""
        self._stamp = present

    def forget(self) -> None:
        """It is from no values."""
        self._stamp = None
