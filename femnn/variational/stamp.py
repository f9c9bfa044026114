"""What tells whether something that was computed is still valid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
