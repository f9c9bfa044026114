"""Training of laws and runoff through the river, and series of what they predict."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from firedrake import Constant
from firedrake.adjoint import Control, ReducedFunctional
from torch import nn

import femnn
from demos.studies.common import Stopwatch, recording

from .judging import SIZE, WHOLE, Cutting, rmse, within
from .laws import FlowLaw
from .model import Rivers


@dataclass
class Trained:
    """A law and a runoff, and what it took to find them."""

    law: FlowLaw
    runoff: nn.Module
    solves: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    weights: int = 0
    data: int = 0


def sizes(rivers: Rivers) -> np.ndarray:
    """What an error is measured by at each station, in m3/s."""
    return np.tile([SIZE[name] for name in rivers.tree.gathers], rivers.n_parts)


def train(
    cutting: Cutting,
    trained: Trained,
    rivers: Rivers,
    rows: np.ndarray,
    iterations: int,
    rate: float,
    precision: float | None,
    method: str = "Adam",
) -> Trained:
    """Train law and runoff together on parts of the record, further than they are.

    Parameters
    ----------
    cutting, trained
        How the record is cut, and what is trained.
    rivers
        The model of the parts, with the law and the runoff.
    rows
        The days of the parts.
    iterations, rate
        Of Adam, whose rate falls to nothing along a cosine.
    precision
        Of the prior of all weights; none for the few numbers of baselines.
    method
        ``"Adam"``, or a method of :func:`femnn.fit`.
    """
    watch = Stopwatch()
    measured = cutting.measured(rows, rivers.tree.gathers)
    data = rivers.observations(measured, cutting.warm_up, std=sizes(rivers))
    Jhat = rivers.record(data, precision=precision)
    step, callback = _method(rivers, method, iterations, rate)
    result = femnn.fit(
        Jhat,
        step,
        maxiter=iterations,
        ftol=0.0 if callback else 1e-4,
        callback=callback,
        progress=False,
    )
    counts = result.solves
    trained.solves += rivers.n_days * rivers.steps * (counts.forward + counts.adjoint)
    trained.seconds += watch.seconds()
    trained.losses += [loss.loss for loss in result.history]
    trained.weights = sum(len(w.vector) for w in rivers.controls)
    trained.data = len(data)
    print(f"  {result}", flush=True)
    return trained


def _method(rivers: Rivers, method: str, iterations: int, rate: float):
    """An optimiser with its schedule, or the name of a method."""
    if method != "Adam":
        return method, None
    parameters = [p for weights in rivers.controls for p in weights.parameters]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)

    def follow(step, weights) -> None:
        if step.iteration > 0:
            schedule.step()
        if step.iteration % 10 == 0:
            print(f"    {step.iteration}: {step.loss:.1f}, {step.seconds:.0f} s", flush=True)

    return optimiser, follow


def predict(
    cutting: Cutting,
    trained: Trained,
    years: tuple[int, int],
    cut: tuple[str, ...] = WHOLE,
    names: tuple[str, ...] = tuple(SIZE),
) -> dict[str, np.ndarray]:
    """Series of daily means in m3/s at points of the tree, NaN outside of the years."""
    rows = cutting.rows(*years)
    rivers = cutting.model(trained.law, cutting.seeing(trained.runoff, rows, cut), rows, cut)
    series = cutting.series(rows, rivers.simulate(names), years[0])
    return dict(zip(names, series, strict=True))


def scores(
    cutting: Cutting, series: dict[str, np.ndarray], years: Sequence[int]
) -> dict[str, float]:
    """RMSE at each gauge in years."""
    river = cutting.river
    which = within(river, years)
    return {name: rmse(v[which], river.flow[name][which]) for name, v in series.items()}


def fit_errors(
    river_flow: dict[str, np.ndarray], series: dict[str, np.ndarray], which: np.ndarray
) -> dict[str, tuple[float, float]]:
    """How errors grow with the flow, std = a + b flow of each gauge, from days that are fitted.

    By the largest likelihood of normal errors; recorded as any other functional is.
    """
    return {name: _fit_error(river_flow[name][which], v[which]) for name, v in series.items()}


def _fit_error(measured: np.ndarray, model: np.ndarray) -> tuple[float, float]:
    known = np.isfinite(measured) & np.isfinite(model)
    error, flow = torch.tensor((model - measured)[known]), torch.tensor(model[known])

    class Likelihood(nn.Module):
        def forward(self, logs: torch.Tensor) -> torch.Tensor:
            std = torch.exp(logs[0]) + torch.exp(logs[1]) * flow.clamp(min=0)
            return (0.5 * (error / std) ** 2 + torch.log(std)).mean()

    logs = Constant([0.0, -3.0])
    with recording():
        J = femnn.apply(Likelihood(), logs, into=float)
        Jhat = ReducedFunctional(J, Control(logs))
    femnn.fit(Jhat, maxiter=100, progress=False)
    a, b = np.exp(np.asarray(logs.dat.data_ro))
    return float(a), float(b)


def coverage(
    measured: np.ndarray, model: np.ndarray, error: tuple[float, float], z: float = 1.645
) -> float:
    """Which part of the data is in the 90 % band."""
    known = np.isfinite(measured) & np.isfinite(model)
    std = error[0] + error[1] * np.maximum(model[known], 0)
    return float(np.mean(np.abs(model[known] - measured[known]) <= z * std))
