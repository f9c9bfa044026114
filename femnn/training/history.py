"""What is known of each iteration, and how it is shown while it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from tqdm import tqdm

from femnn.tape.counts import Solves


@dataclass
class Step:
    """One accepted iteration.

    Attributes
    ----------
    iteration, evaluations
        Iterations and evaluations so far.
    loss, gradient_norm
        The loss and the norm of its gradient: the l2 norm, of fields that of the gradient's
        Riesz representer in the field's inner product. Where bounds hold values back, their
        entries count as zero.
    seconds
        Wall-clock time so far.
    solves
        Runs of the model and its derivatives so far.
    """

    iteration: int
    evaluations: int
    loss: float
    gradient_norm: float
    seconds: float
    solves: Solves = field(default_factory=Solves)


@dataclass(frozen=True)
class Rejection:
    """A step that was rejected, as the model could not be evaluated there.

    Attributes
    ----------
    evaluation
        Which evaluation it was; the first one is 1.
    reason
        Why: what the solver said, or that it took much more work than usual.
    """

    evaluation: int
    reason: str


class Progress:
    """A line on the terminal's error stream that follows the training.

    Parameters
    ----------
    shown
        Whether this rank shows it.
    """

    def __init__(self, shown: bool):
        # A terminal is refreshed often, a log file seldom.
        interval = 0.2 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            desc="fit", unit="it", disable=not shown, dynamic_ncols=True, mininterval=interval
        )

    def show(self, step: Step) -> None:
        """Show an iteration."""
        self._bar.set_postfix_str(
            f"loss {step.loss:.4e}, |gradient| {step.gradient_norm:.2e}, {step.solves}",
            refresh=False,
        )
        self._bar.update(1 if step.iteration else 0)

    def rejected(self, why: str) -> None:
        """Say that a step was rejected."""
        if not self._bar.disable:
            self._bar.write(f"fit: rejected step: {why}", file=sys.stderr)

    def stopping(self) -> None:
        """Say that Ctrl-C was seen."""
        self._bar.set_description("stopping after this evaluation (Ctrl-C again: at once)")

    def close(self) -> None:
        """Leave the last line as it is."""
        self._bar.close()
