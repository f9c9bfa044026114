"""One training: what every optimiser works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from femnn.parallel import any_rank, from_rank_zero, on_all_ranks
from femnn.tape.counts import Solves, counting
from femnn.training.history import Progress, Step
from femnn.training.interruption import Interruption
from femnn.training.loss import Loss
from femnn.training.result import FitResult, Outcome, Stop
from femnn.training.settings import Settings

Callback = Callable[[Step, np.ndarray], Any]

# A loss that is lower by less than this, relative to it, is not lower: warm starts alone move it.
ROUNDING = 1e-10


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
        Which of the settings ``ftol`` and ``learning_rate`` mean something to it.
    options
        Names of the further options that it takes; ``None`` where ``check`` knows them.
    check
        Called with the options that are given; raises where a value is out of range.
    takes_bounds
        Whether it keeps to bounds of the controls.
    """

    minimise: Callable[[Run], Outcome]
    uses: Collection[str]
    options: Collection[str] | None
    check: Callable[[Mapping[str, Any]], None]
    takes_bounds: bool = False

    def check_settings(self, method: str, settings: Settings, bounds: Any = None) -> None:
        """Raise where something is set that means nothing to this optimiser."""
        settings.check_use(method, self.uses, self.options)
        if bounds is not None and not self.takes_bounds:
            raise ValueError(
                f"fit: bounds are nothing that {method} keeps to: leave them out, or take a method "
                "that does, such as 'L-BFGS', or 'bnls' and 'bqnls' of TAO's."
            )
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
    bounds
        Of the controls, as :func:`femnn.fit` takes them.

    Attributes
    ----------
    loss : Loss
        The functional, with its best and its last point.
    settings : Settings
        When to stop, and the optimiser's options.
    history : list of Step
        Each accepted iteration so far, the first entry before any.
    accepted : numpy.ndarray
        Where the last one ended, shape ``(n,)``.
    """

    def __init__(
        self,
        Jhat: Any,
        settings: Settings,
        callback: Callback | None,
        progress: bool,
        bounds: Any = None,
    ):
        if callback is not None and not callable(callback):
            raise TypeError(
                f"fit: callback is a {type(callback).__name__}, wanted a function that is called "
                "as callback(step, weights)."
            )
        self.loss = Loss(Jhat, self._rejected, bounds, settings.patience)
        self._solves = Solves()
        self.settings = settings
        self.history: list[Step] = []
        self.accepted = np.empty(0)
        self._callback = callback
        self._comm = self.loss.controls.comm
        self._began = time.monotonic()
        self._progress = Progress(shown=progress and self._comm.rank == 0)
        self._interruption = Interruption(self._progress.stopping)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.callback(self._progress.close)
        self._open.enter_context(self._interruption)
        self._solves = self._open.enter_context(counting())
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
        """Train, and leave the controls and the tape at the best values.  Collective."""
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
            what = self.loss.controls.what
            raise Stop("interrupted", f"Interrupted: the best {what} so far are kept.")
        return self.loss(vector)

    def accept(self, vector: np.ndarray) -> None:
        """An iteration is done: history, progress, callback, and whether to stop.  Collective."""
        point, before = self.loss.last, self.history[-1].loss if self.history else np.nan
        step = Step(
            iteration=len(self.history),
            evaluations=self.loss.evaluations,
            loss=point.loss,
            gradient_norm=point.gradient_norm,
            seconds=time.monotonic() - self._began,
            solves=replace(self._solves),
        )
        self.history.append(step)
        self.accepted = point.vector
        self._progress.show(step)
        if self._callback is not None and self._is_stopped_by_callback(step, vector):
            raise Stop("callback", "Stopped by the callback.")
        target = self.settings.target
        if target is not None and point.loss <= target:
            raise Stop("target", f"The loss has reached the target {target:.3e}.")
        if point.largest_entry <= self.settings.gtol:
            raise self.small_gradient()
        ftol = self.settings.ftol
        if ftol > 0 and before - point.loss <= ftol * abs(before):
            raise Stop("converged", f"Converged: the loss fell by less than {ftol} of itself.")

    def restarted(self, attempt: Callable[[], Outcome | None]) -> Outcome:
        """Call an attempt from the best point, again where a rejected step has ended it.

        Parameters
        ----------
        attempt
            Returns why it ended; ``None`` where it found no lower loss.
        """
        while True:
            best, rejected = self.loss.best, self.loss.rejected
            ended = attempt()
            if ended is not None:
                return ended
            fell = best.loss - self.loss.best.loss > ROUNDING * abs(best.loss)
            if self.loss.rejected == rejected or not fell:
                return Outcome("no progress", "The line search found no lower loss.")

    def out_of_iterations(self) -> Outcome:
        """All iterations are done."""
        maxiter = self.settings.maxiter
        return Outcome("iterations", f"Stopped after {maxiter} iterations.")

    def small_gradient(self) -> Stop:
        """The gradient is as small as was asked for."""
        gtol = self.settings.gtol
        return Stop("converged", f"Converged: no entry of the gradient exceeds {gtol}.")

    def _is_stopped_by_callback(self, step: Step, vector: np.ndarray) -> bool:
        """Call it with the controls at this step; what it raises on one rank, all raise."""
        assert self._callback is not None
        controls = self.loss.controls
        controls.write(vector)
        elsewhere = "fit: the callback raised an error on another rank: see that rank's message."
        weights = controls.weights_of(vector)
        stop = on_all_ranks(
            self._comm, _asks_to_stop, self._callback, step, weights, elsewhere=elsewhere
        )
        return any_rank(self._comm, stop)

    def _rejected(self, why: str) -> None:
        self._progress.rejected(why)

    def _result(self, outcome: Outcome) -> FitResult:
        best, controls = self.loss.best, self.loss.controls
        return FitResult(
            weights=controls.weights_of(best.vector),
            controls=controls.objects(best.vector),
            loss=best.loss,
            initial_loss=self.history[0].loss,
            gradient_norm=best.gradient_norm,
            iterations=self.iterations,
            evaluations=self.loss.evaluations,
            rejected=self.loss.rejected,
            rejections=self.loss.rejections,
            solves=from_rank_zero(self._comm, replace(self._solves)),
            reason=outcome.reason,
            message=outcome.message,
            seconds=time.monotonic() - self._began,
            history=self.history,
        )


def _asks_to_stop(callback: Callback, step: Step, weights: np.ndarray) -> bool:
    try:
        return bool(callback(step, weights))
    except StopIteration:  # as SciPy's callbacks say it
        return True
