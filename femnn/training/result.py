"""What a training did, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from femnn.tape.counts import Solves
from femnn.training.history import Rejection, Step


@dataclass(frozen=True)
class Outcome:
    """Why a training ended: a word for programs and a sentence for people."""

    reason: str
    message: str


class Stop(Exception):
    """Leaves an optimiser's loop, from wherever in it."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.outcome = Outcome(reason, message)


@dataclass
class FitResult:
    """What :func:`femnn.fit` did.

    Attributes
    ----------
    weights : numpy.ndarray
        The best weights, which the networks now have, shape ``(n_weights,)``; those of several
        networks in the order of the controls; empty where no control is a network's.
    controls : list
        The best values of all controls in their order, as new ``Weights``, Functions and
        Constants, which the reduced functional takes.
    loss, initial_loss : float
        The loss at the best and at the first values.
    gradient_norm : float
        Norm of the gradient at the best values, as in the history.
    iterations, evaluations, rejected : int
        Iterations; evaluations of value and gradient; evaluations whose forward solve failed or
        was given up.
    rejections : list of Rejection
        Each of these, with its reason.
    solves : Solves
        Runs of the model, its adjoint, tangent-linear and second-order adjoint model, and the
        linear systems that were solved in all: what methods are to be compared by.
    reason : str
        Why it stopped: ``"converged"``, ``"iterations"``, ``"evaluations"``, ``"target"``,
        ``"callback"``, ``"interrupted"`` or ``"no progress"``.
    message : str
        The same in a sentence.
    seconds : float
        Wall-clock time.
    history : list of Step
        Each accepted iteration, the first entry before any.
    """

    weights: np.ndarray
    controls: list[Any] = field(repr=False)
    loss: float
    initial_loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    rejected: int
    rejections: list[Rejection] = field(repr=False)
    solves: Solves
    reason: str
    message: str
    seconds: float
    history: list[Step] = field(repr=False)

    @property
    def success(self) -> bool:
        """Whether the optimiser's own criterion or the target was reached."""
        return self.reason in ("converged", "target")

    def __str__(self) -> str:
        return (
            f"{self.message} Loss {self.initial_loss:.4e} -> {self.loss:.4e}, gradient "
            f"{self.gradient_norm:.2e}, {self.iterations} iterations, {self.evaluations} "
            f"evaluations ({self.rejected} rejected), {self.seconds:.1f} s. Solves: {self.solves}."
        )
