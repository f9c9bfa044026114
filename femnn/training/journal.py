"""The evaluations of a training, so that an optimiser can be led along them again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """What came of one evaluation.

    Attributes
    ----------
    vector
        Where, shape ``(n,)``.
    value
        The loss; NaN where there is none.
    gradient
        Shape ``(n,)``; ``None`` where the model could not be evaluated.
    why
        The reason then.
    work, equations
        The linear systems that were solved for the value, and in how many equations.
    """

    vector: np.ndarray
    value: float
    gradient: np.ndarray | None
    why: str = ""
    work: int = 0
    equations: int = 0


class Journal:
    """The evaluations so far, if they are kept; and those of a former run that are repeated.

    Attributes
    ----------
    kept : list of Evaluation or None
        Those since they were last written; ``None`` where none are kept.
    """

    def __init__(self) -> None:
        self.kept: list[Evaluation] | None = None
        self._former: list[Evaluation] = []

    def repeat(self, former: Iterable[Evaluation]) -> None:
        """Answer the next evaluations by these."""
        self._former = list(former)

    @property
    def repeats(self) -> bool:
        """Whether there are such evaluations still."""
        return bool(self._former)

    @property
    def next_vector(self) -> np.ndarray:
        """Where the next of them was."""
        return self._former[0].vector

    def known(self, vector: np.ndarray) -> Evaluation | None:
        """The former evaluation that this one repeats, if there is one.

        Raises
        ------
        ValueError
            If the former one was elsewhere.
        """
        if not self._former:
            return None
        known = self._former.pop(0)
        if not np.allclose(vector, known.vector, rtol=1e-9, atol=1e-12):
            raise ValueError(
                "fit: the optimiser does not go the way of the training that was checkpointed: its "
                "settings, the bounds or the version of its library are others. Give the same, or "
                "begin anew in another folder, from weights that a callback has saved."
            )
        return known

    def add(self, evaluation: Evaluation) -> None:
        """An evaluation was made."""
        if self.kept is not None:
            self.kept.append(evaluation)
