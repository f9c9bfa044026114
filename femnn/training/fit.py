"""Training: minimise a reduced functional over the weights of networks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import firedrake as fd
import numpy as np
import scipy.optimize
import torch
from pyadjoint import ReducedFunctional, stop_annotating
from pyadjoint.enlisting import Enlist
from tqdm import tqdm

from femnn.parallel import any_rank, from_rank_zero, vector_from_rank_zero
from femnn.tape.weights import Weights

# A loss that is lower by less than this, relative to it, is not lower: warm starts alone move it.
ROUNDING = 1e-10


@dataclass
class Step:
    """One accepted iteration.

    Attributes
    ----------
    iteration, evaluations
        Iterations and evaluations so far.
    loss, gradient_norm
        The loss and the l2 norm of its gradient.
    seconds
        Wall-clock time so far.
    """

    iteration: int
    evaluations: int
    loss: float
    gradient_norm: float
    seconds: float


@dataclass
class FitResult:
    """What :func:`fit` did.

    Attributes
    ----------
    weights : numpy.ndarray
        The best weights, which the networks now have, shape ``(n_weights,)``.
    loss, initial_loss : float
        The loss at the best and at the first weights.
    gradient_norm : float
        l2 norm of the gradient at the best weights.
    iterations, evaluations, rejected : int
        Iterations; evaluations of value and gradient; evaluations whose forward solve failed.
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
    loss: float
    initial_loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    rejected: int
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
            f"evaluations ({self.rejected} rejected), {self.seconds:.1f} s."
        )


@dataclass(frozen=True)
class _Point:
    """Weights with the loss and its gradient there."""

    weights: np.ndarray
    loss: float
    gradient: np.ndarray

    @property
    def gradient_norm(self) -> float:
        return float(np.linalg.norm(self.gradient))


class _Stop(Exception):
    """Leaves an optimiser's loop."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason, self.message = reason, message


def fit(
    Jhat: ReducedFunctional,
    method: str = "L-BFGS",
    *,
    maxiter: int = 200,
    gtol: float = 1e-10,
    ftol: float = 0.0,
    target: float | None = None,
    learning_rate: float = 1e-2,
    options: dict[str, Any] | None = None,
    callback: Callable[[Step, np.ndarray], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    """Minimise a reduced functional over the weights of one or more networks.  Collective.

    The networks end with the best weights that were seen, also after Ctrl-C.  A forward
    solve that fails is a rejected step; any other error reaches the caller, with the best
    weights kept.

    Parameters
    ----------
    Jhat
        The functional; its controls must be ``Weights``.
    method
        ``"L-BFGS"`` (SciPy's L-BFGS-B) or ``"Adam"`` (torch's).
    maxiter
        Number of iterations at most.
    gtol
        Stop when the largest entry of the gradient is below.
    ftol
        L-BFGS stops when the loss falls by less than this fraction of it in an iteration.
    target
        Stop when the loss is at or below.
    learning_rate
        Adam's.
    options
        More options of :func:`scipy.optimize.minimize`'s L-BFGS-B (``maxcor``, ``maxfun``,
        ``maxls``), or of :class:`torch.optim.Adam`.
    callback
        Called as ``callback(step, weights)`` after each iteration on every rank; a true
        return value stops the training.
    progress
        Whether rank 0 shows live progress.

    Returns
    -------
    FitResult

    Raises
    ------
    TypeError
        If a control is not a ``Weights``.
    ValueError
        If the method is unknown, or weights, loss or gradient at the start are not finite.
    firedrake.ConvergenceError
        If the first forward solve fails.

    References
    ----------
    R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, SIAM J. Sci. Comput. 16 (1995) for L-BFGS-B;
    D. P. Kingma, J. Ba, arXiv 1412.6980 for Adam.
    """
    optimisers = {"L-BFGS": _lbfgs, "Adam": _adam}
    if method not in optimisers:
        raise ValueError(f"fit: method={method!r} is unknown, use one of {sorted(optimisers)}.")
    loss = _Loss(Jhat, target=target, callback=callback, progress=progress)
    settings = {"maxiter": maxiter, "gtol": gtol, "ftol": ftol, "learning_rate": learning_rate}
    with stop_annotating(), loss.running():
        try:
            loss.start()
            reason, message = "iterations", "Stopped after 0 iterations."
            if maxiter > 0:
                reason, message = optimisers[method](loss, settings, dict(options or {}))
        except _Stop as stop:
            reason, message = stop.reason, stop.message
        finally:
            loss.keep_best()
    return loss.result(reason, message)


class _Loss:
    """Value and gradient as numpy sees them, with the best point, the history and Ctrl-C."""

    def __init__(
        self, Jhat: ReducedFunctional, target: float | None, callback: Any, progress: bool
    ):
        self.Jhat = Jhat
        self.controls = [c.control for c in Enlist(Jhat.controls)]
        for control in self.controls:
            if not isinstance(control, Weights):
                raise TypeError(
                    f"fit: a control is a {type(control).__name__}, wanted Weights (for example "
                    "Control(kappa.weights)). For fields use pyadjoint's minimize."
                )
        self.sizes = [len(c) for c in self.controls]
        owned = [id(p) for c in self.controls for p in c.parameters]
        if len(set(owned)) < len(owned):
            raise ValueError(
                "fit: two controls share some of their parameters, but not all: each would get a "
                "part of the gradient. Put the networks into one torch module."
            )
        self.comm = self.controls[0].comm
        self.target, self.callback = target, callback
        self.evaluations = self.rejected = self.iterations = 0
        self.history: list[Step] = []
        self.began = time.monotonic()
        self._interrupted = False
        self._best: _Point | None = None
        self._last: _Point | None = None
        shown = progress and self.comm.rank == 0
        # A terminal is refreshed often, a log file seldom.
        interval = 0.2 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(
            desc="fit", unit="it", disable=not shown, dynamic_ncols=True, mininterval=interval
        )

    @property
    def best(self) -> _Point:
        """The point with the lowest loss."""
        assert self._best is not None, "start() comes first"
        return self._best

    @property
    def last(self) -> _Point:
        """The last point at which the forward solve succeeded."""
        assert self._last is not None, "start() comes first"
        return self._last

    def start(self) -> None:
        """Evaluate at the present weights; everything must be finite there."""
        for control in self.controls:
            control.check(control.vector)
        initial = np.concatenate([c.vector for c in self.controls])
        weights = vector_from_rank_zero(self.comm, initial)
        value, gradient = self._evaluate(weights)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            what = f"loss is {value}" if not np.isfinite(value) else "gradient is not finite"
            raise ValueError(
                f"fit: at the initial weights the {what}. Look for NaN in the observations and "
                "in the fields of the form, and for a network output that the form cannot take."
            )
        if not gradient.any():
            raise ValueError(
                "fit: the gradient at the initial weights is exactly zero: the functional does not "
                "depend on the weights. Record the model while annotation is on, and make the "
                "controls from the weights of the coefficients in it."
            )
        self._note(weights, value, gradient)
        self.accept(weights)

    def __call__(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient; a finite barrier where the forward solve fails."""
        weights = vector_from_rank_zero(self.comm, weights)
        for known in (self.last, self.best):
            if np.array_equal(weights, known.weights):
                self._last = known
                return known.loss, known.gradient
        if any_rank(self.comm, self._interrupted):
            raise _Stop("interrupted", "Interrupted: the best weights so far are kept.")
        try:
            value, gradient = self._evaluate(weights)
        except fd.ConvergenceError as error:
            return self._reject(weights, str(error).strip().splitlines()[0])
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return self._reject(weights, "the loss or its gradient is not finite")
        self._note(weights, value, gradient)
        return value, gradient

    def accept(self, weights: np.ndarray) -> None:
        """An iteration is done: history, progress, callback and the target."""
        point = self.last
        seconds = time.monotonic() - self.began
        step = Step(self.iterations, self.evaluations, point.loss, point.gradient_norm, seconds)
        self.history.append(step)
        self._show(step)
        stop = self.callback is not None and bool(self.callback(step, weights.copy()))
        if any_rank(self.comm, stop):
            raise _Stop("callback", "Stopped by the callback.")
        if self.target is not None and point.loss <= self.target:
            raise _Stop("target", f"The loss has reached the target {self.target:.3e}.")
        self.iterations += 1

    def keep_best(self) -> None:
        """Give the networks the best weights that were seen."""
        if self._best is not None:
            pieces = self._split(self._best.weights)
            for control, vector in zip(self.controls, pieces, strict=True):
                control.assign(vector)

    def result(self, reason: str, message: str) -> FitResult:
        return FitResult(
            weights=self.best.weights,
            loss=self.best.loss,
            initial_loss=self.history[0].loss,
            gradient_norm=self.best.gradient_norm,
            iterations=self.history[-1].iteration,
            evaluations=self.evaluations,
            rejected=self.rejected,
            reason=reason,
            message=message,
            seconds=time.monotonic() - self.began,
            history=self.history,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let Ctrl-C end the training after the evaluation in hand; close the progress bar."""
        main = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, self._on_interrupt) if main else None
        try:
            yield
        finally:
            if main:
                signal.signal(signal.SIGINT, previous)
            self._bar.close()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._bar.set_description("stopping after this evaluation (Ctrl-C again: at once)")

    def _evaluate(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        pieces = [c.like(v) for c, v in zip(self.controls, self._split(weights), strict=True)]
        value = float(self.Jhat(pieces if len(pieces) > 1 else pieces[0]))
        gradient = np.concatenate([g.vector for g in Enlist(self.Jhat.derivative())])
        value = from_rank_zero(self.comm, value)
        return value, vector_from_rank_zero(self.comm, gradient)

    def _note(self, weights: np.ndarray, value: float, gradient: np.ndarray) -> None:
        self._last = _Point(weights.copy(), value, gradient)
        if self._best is None or value < self._best.loss:
            self._best = self._last

    def _reject(self, weights: np.ndarray, why: str) -> tuple[float, np.ndarray]:
        """A barrier that sends a line search back towards the last good point."""
        self.rejected += 1
        if not self._bar.disable:
            self._bar.write(f"fit: rejected step: {why}", file=sys.stderr)
        away = weights - self.last.weights
        length = float(np.linalg.norm(away))
        rise = 10.0 * max(abs(self.last.loss), 1e-30)
        return self.last.loss + rise, (2 * rise / length**2) * away

    def _split(self, weights: np.ndarray) -> list[np.ndarray]:
        return np.split(weights, np.cumsum(self.sizes)[:-1])

    def _show(self, step: Step) -> None:
        self._bar.set_postfix_str(
            f"loss {step.loss:.4e}, |gradient| {step.gradient_norm:.2e}, "
            f"{step.evaluations} evaluations",
            refresh=False,
        )
        self._bar.update(1 if step.iteration else 0)


def _lbfgs(loss: _Loss, settings: dict, options: dict) -> tuple[str, str]:
    ftol, maxiter = settings["ftol"], settings["maxiter"]

    def accept(weights: np.ndarray) -> None:
        before = loss.history[-1].loss
        loss.accept(weights)
        if ftol > 0 and before - loss.last.loss <= ftol * abs(before):
            raise _Stop("converged", f"Converged: the loss fell by less than {ftol} of itself.")

    while True:
        best, rejected = loss.best, loss.rejected
        chosen = {
            "maxiter": maxiter - loss.history[-1].iteration,
            "maxfun": max(1, 10 * maxiter - loss.evaluations),
            "gtol": settings["gtol"],
            "ftol": 0.0,  # SciPy's is a fraction of max(loss, 1), whatever the loss's unit
            "maxcor": 20,
            **options,
        }
        outcome = scipy.optimize.minimize(
            loss, best.weights, jac=True, method="L-BFGS-B", callback=accept, options=chosen
        )
        text = str(outcome.message)
        if "ITERATIONS" in text:
            return "iterations", f"Stopped after {maxiter} iterations."
        if "EVALUATIONS" in text:
            return "evaluations", f"Stopped after {loss.evaluations} evaluations."
        if "PROJECTED GRADIENT" in text:
            return "converged", f"Converged: no entry of the gradient exceeds {settings['gtol']}."
        # A rejected step can end a line search early: go on from the best point, afresh.
        fell = best.loss - loss.best.loss > ROUNDING * abs(best.loss)
        if loss.rejected == rejected or not fell:
            return "no progress", "The line search found no lower loss."


def _adam(loss: _Loss, settings: dict, options: dict) -> tuple[str, str]:
    weights = torch.nn.Parameter(torch.from_numpy(loss.last.weights.copy()))
    optimiser = torch.optim.Adam([weights], **{"lr": settings["learning_rate"], **options})
    good, rejected = weights.detach().clone(), loss.rejected
    for _ in range(settings["maxiter"]):
        if loss.rejected > rejected:
            _halve_step(optimiser, weights, good)
        else:
            gradient = loss.last.gradient
            if np.abs(gradient).max(initial=0.0) <= settings["gtol"]:
                small = f"no entry of the gradient exceeds {settings['gtol']}"
                return "converged", f"Converged: {small}."
            good = weights.detach().clone()
            weights.grad = torch.from_numpy(gradient.copy())
            optimiser.step()
        rejected = loss.rejected
        loss(weights.detach().numpy())
        if loss.rejected == rejected:
            loss.accept(weights.detach().numpy())
    return "iterations", f"Stopped after {settings['maxiter']} iterations."


def _halve_step(optimiser: torch.optim.Optimizer, weights: Any, good: torch.Tensor) -> None:
    """Back to the middle between the last good point and the failed one, with half the rate."""
    with torch.no_grad():
        weights.copy_((weights + good) / 2)
    for group in optimiser.param_groups:
        group["lr"] /= 2
