"""How the published problems train: budgets, what a training did, and SciPy's two optimisers."""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize

ValueAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass
class Trained:
    """What a training did.

    Attributes
    ----------
    weights
        The trained weights, in the order of the network's parameters.
    loss, initial_loss
        The loss at these and at the first weights.
    iterations, evaluations
        Iterations; evaluations of value and gradient.
    seconds
        Processor time of the training.
    setup
        Processor time before it: recording the model, and two values and gradients, in which
        kernels are compiled.
    history
        The loss after each iteration, the first entry before any.
    """

    weights: list[float]
    loss: float
    initial_loss: float
    iterations: int
    evaluations: int
    seconds: float
    setup: float
    history: list[float]


@dataclass(frozen=True)
class Budget:
    """How long to train: what is spent first ends a stage.

    Attributes
    ----------
    iterations
        Of L-BFGS-B, with ten times as many evaluations at most, as in the paper.
    seconds
        Of L-BFGS-B, at whose end an iteration in hand is finished.
    newton_evaluations, newton_seconds
        Of SciPy's truncated Newton method, which follows; none by default.
    """

    iterations: int
    seconds: float = math.inf
    newton_evaluations: int = 0
    newton_seconds: float = math.inf

    def options(self) -> dict:
        """SciPy's L-BFGS-B with its default memory, and the paper's limit of evaluations."""
        return {"maxcor": 10, "maxfun": 10 * self.iterations}


def cpu_seconds() -> float:
    """Processor time of this process and its ended children: other jobs do not count."""
    return sum(os.times()[:4])


class Timer:
    """Processor time since it was made."""

    def __init__(self):
        self.began = cpu_seconds()

    def seconds(self) -> float:
        """Seconds so far."""
        return cpu_seconds() - self.began


def quasi_newton(
    value_and_gradient: ValueAndGradient, first: np.ndarray, budget: Budget, setup: float
) -> Trained:
    """Train by L-BFGS-B from the first weights."""
    timer = Timer()
    history: list[float] = []

    def noted(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(w)
        if not history:
            history.append(value)
        return value, gradient

    def note(intermediate_result) -> None:
        history.append(float(intermediate_result.fun))
        if timer.seconds() > budget.seconds:
            raise StopIteration  # SciPy's way to end

    outcome = scipy.optimize.minimize(
        noted,
        first,
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxiter": budget.iterations, "gtol": 0.0, "ftol": 0.0, **budget.options()},
    )
    return Trained(
        weights=outcome.x.tolist(),
        loss=float(outcome.fun),
        initial_loss=history[0],
        iterations=int(outcome.nit),
        evaluations=int(outcome.nfev),
        seconds=timer.seconds(),
        setup=setup,
        history=history,
    )


def truncated_newton(
    value_and_gradient: ValueAndGradient, trained: Trained, budget: Budget
) -> Trained:
    """Go on from a training by the truncated Newton method; the best weights are kept."""
    timer = Timer()
    best = (trained.loss, np.array(trained.weights))
    history, evaluations = list(trained.history), 0

    def counted(w: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, evaluations
        if timer.seconds() > budget.newton_seconds:
            raise StopIteration
        evaluations += 1
        value, gradient = value_and_gradient(w)
        best = min(best, (value, w.copy()), key=lambda pair: pair[0])
        return value, gradient

    limits = {"maxfun": budget.newton_evaluations, **dict.fromkeys(("ftol", "gtol", "xtol"), 1e-20)}
    with contextlib.suppress(StopIteration):
        scipy.optimize.minimize(
            counted,
            best[1],
            jac=True,
            method="TNC",
            callback=lambda w: history.append(best[0]),
            options=limits,
        )
    return replace(
        trained,
        weights=best[1].tolist(),
        loss=best[0],
        iterations=len(history) - 1,
        evaluations=trained.evaluations + evaluations,
        seconds=trained.seconds + timer.seconds(),
        history=history,
    )
