"""One training: what every optimiser works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from femnn.parallel import any_rank, raise_on_all_ranks
from femnn.training.history import Progress, Step
from femnn.training.interruption import Interruption
from femnn.training.loss import Loss
from femnn.training.result import FitResult, Outcome, Stop
from femnn.training.settings import Settings

Callback = Callable[[Step, np.ndarray], Any]


@dataclass(frozen=True)
class Optimiser:
    """An optimiser, and what it takes.

    Attributes
    ----------
    minimise
        Called with a :class:`Run` that has been started.  It evaluates by calling the run,
        reports each iteration by ``run.accept``, and returns why it ended; both may raise
        :class:`~femnn.training.result.Stop`, which is not for it to catch.
    uses
        Which of the settings ``ftol`` and ``learning_rate`` it looks at.
    options
        Names of the further options that it takes.
    check
        Called with the options that are given; raises where a value is out of range.
    """

    minimise: Callable[[Run], Outcome]
    uses: Collection[str]
    options: Collection[str]
    check: Callable[[Mapping[str, Any]], None]

    def check_settings(self, method: str, settings: Settings) -> None:
        """Raise where something is set that means nothing to this optimiser."""
        settings.check_use(method, self.uses, self.options)
        self.check(settings.options)


class Run:
    """A training from its first evaluation to its result.

    A context manager: inside, Ctrl-C ends the training after the evaluation in hand, and
    progress is shown.

    Parameters
    ----------
    Jhat
        The reduced functional.
    settings
        When to stop.
    callback
        Called as ``callback(step, vector)`` after each iteration.
    progress
        Whether rank 0 shows live progress.

    Attributes
    ----------
    loss : Loss
        The functional, with its best and its last point.
    settings : Settings
        When to stop, and the optimiser's options.
    history : list of Step
        Each accepted iteration so far, the first entry before any.
    """

    def __init__(self, Jhat: Any, settings: Settings, callback: Callback | None, progress: bool):
        if callback is not None and not callable(callback):
            raise TypeError(
                f"fit: callback is a {type(callback).__name__}, wanted a function that is called "
                "as callback(step, weights)."
            )
        self.loss = Loss(Jhat, on_rejection=self._rejected)
        self.settings = settings
        self.history: list[Step] = []
        self._callback = callback
        self._comm = self.loss.controls.comm
        self._began = time.monotonic()
        self._progress = Progress(shown=progress and self._comm.rank == 0)
        self._interruption = Interruption(self._progress.stopping)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.callback(self._progress.close)
        self._open.enter_context(self._interruption)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def iterations(self) -> int:
        """Number of iterations that are done."""
        return self.history[-1].iteration

    @property
    def left(self) -> int:
        """Number of iterations that may still be done."""
        return self.settings.maxiter - self.iterations

    def minimise(self, optimiser: Optimiser) -> FitResult:
        """Train, and leave networks and tape at the best weights.  Collective."""
        try:
            outcome = self._minimise(optimiser)
        except Stop as stop:
            outcome = stop.outcome
        finally:
            self.loss.keep_best()
        self.loss.return_to_best()
        return self._result(outcome)

    def _minimise(self, optimiser: Optimiser) -> Outcome:
        start = self.loss.start()
        self.accept(start.vector)
        if self.settings.maxiter == 0:
            return self.out_of_iterations()
        return optimiser.minimise(self)

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient of the loss; see :class:`Loss`.  Collective."""
        if any_rank(self._comm, self._interruption.requested):
            raise Stop("interrupted", "Interrupted: the best weights so far are kept.")
        return self.loss(vector)

    def accept(self, vector: np.ndarray) -> None:
        """An iteration is done: history, progress, callback and the target.  Collective."""
        point = self.loss.last
        step = Step(
            iteration=len(self.history),
            evaluations=self.loss.evaluations,
            loss=point.loss,
            gradient_norm=point.gradient_norm,
            seconds=time.monotonic() - self._began,
        )
        self.history.append(step)
        self._progress.show(step)
        if self._callback is not None and self._is_stopped_by_callback(step, vector):
            raise Stop("callback", "Stopped by the callback.")
        target = self.settings.target
        if target is not None and point.loss <= target:
            raise Stop("target", f"The loss has reached the target {target:.3e}.")

    def out_of_iterations(self) -> Outcome:
        """All iterations are done."""
        maxiter = self.settings.maxiter
        return Outcome("iterations", f"Stopped after {maxiter} iterations.")

    def small_gradient(self) -> Outcome:
        """The gradient is as small as was asked for."""
        gtol = self.settings.gtol
        return Outcome("converged", f"Converged: no entry of the gradient exceeds {gtol}.")

    def _is_stopped_by_callback(self, step: Step, vector: np.ndarray) -> bool:
        """Call it with the networks at this step; what it raises on one rank, all raise."""
        assert self._callback is not None
        self.loss.controls.write(vector)
        stop, failure = False, None
        try:
            stop = bool(self._callback(step, vector.copy()))
        except StopIteration:  # as SciPy's callbacks say it
            stop = True
        except Exception as error:
            failure = error
        elsewhere = "fit: the callback raised an error on another rank: see that rank's message."
        raise_on_all_ranks(self._comm, failure, elsewhere)
        return any_rank(self._comm, stop)

    def _rejected(self, why: str) -> None:
        self._progress.rejected(why)

    def _result(self, outcome: Outcome) -> FitResult:
        best = self.loss.best
        return FitResult(
            weights=best.vector,
            loss=best.loss,
            initial_loss=self.history[0].loss,
            gradient_norm=best.gradient_norm,
            iterations=self.iterations,
            evaluations=self.loss.evaluations,
            rejected=self.loss.rejected,
            reason=outcome.reason,
            message=outcome.message,
            seconds=time.monotonic() - self._began,
            history=self.history,
        )
