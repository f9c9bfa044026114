"""A network in the model's place: each station's misfit over its two numbers, by their samples.

It is fitted to values and gradients of the model (Sobolev training), and then trained through
instead of the model.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pyadjoint import Control, ReducedFunctional
from torch import Tensor, nn
from torch.func import grad, vmap

import femnn
from demos.studies.common import Stopwatch, recording

from .data import Record
from .laws import ByAttributes, EachStation
from .model import Columns

CODES = 4  # numbers by which the network tells stations apart
WIDTHS = (32, 32)


@dataclass
class Samples:
    """The stations' misfits at points, and their gradients.

    The misfit is the logarithm of a station's mean squared error in K^2.
    """

    theta: np.ndarray  # shape (n, stations, 2)
    misfit: np.ndarray  # shape (n, stations)
    gradient: np.ndarray  # shape (n, stations, 2)
    n_data: np.ndarray  # shape (stations,)
    steps: int  # of the model, forwards and as adjoints
    seconds: float

    def first(self, n: int) -> "Samples":
        """The first of the points."""
        part = slice(0, n)
        points = (self.theta[part], self.misfit[part], self.gradient[part])
        return Samples(*points, self.n_data, self.steps, self.seconds)


class Sampler:
    """Evaluates the model with numbers of each station's own, all stations side by side.

    As no station's misfit hangs on another's numbers, one run and one adjoint run give the values
    and the gradients of all.

    Parameters
    ----------
    record
        The stations' records.
    stations
        Which of them.
    every
        Days from one datum to the next.
    """

    def __init__(self, record: Record, stations: list[int], every: int):
        self.stations, self.law = stations, EachStation(len(record), 2)
        self.columns = Columns(record, self.law, stations, every)
        self.weights = femnn.Weights.of(self.law)
        with recording():
            J = self.columns.misfit()
            self.Jhat = ReducedFunctional(J, Control(self.weights))
        self.Jhat.optimize_tape()
        errors = self.columns.by_station(self.columns.data.values)
        self.n_data = np.isfinite(errors).sum(axis=(0, 2))

    def __call__(self, theta: np.ndarray) -> Samples:
        """Sample at numbers of shape ``(n, stations, 2)``."""
        watch, misfits, gradients = Stopwatch(), [], []
        for point in theta:
            table = np.zeros(self.law.p.shape)
            table[self.stations] = point
            self.Jhat(self.weights.like(table.ravel()))
            slopes = self.Jhat.derivative().vector.reshape(table.shape)[self.stations]
            self.weights.assign(table.ravel())
            errors = self.columns.errors()
            squares = np.nanmean(errors**2, axis=(0, 2))
            misfits.append(np.log(squares))
            gradients.append(slopes * (2 / (self.n_data * squares))[:, None])
        steps = 3 * len(theta) * self.columns.n_steps
        misfit, gradient = np.array(misfits), np.array(gradients)
        return Samples(theta, misfit, gradient, self.n_data, steps, watch.seconds())


def box(n: int, stations: int, centre: np.ndarray, reach: float, seed: int) -> np.ndarray:
    """Points in a square around a centre, each station's own, shape ``(n, stations, 2)``."""
    points = torch.quasirandom.SobolEngine(2 * stations, scramble=True, seed=seed).draw(n)
    return centre + reach * (2 * points.double().numpy().reshape(n, stations, 2) - 1)


class Surrogate(nn.Module):
    """A station's misfit, of its two numbers and of a code that is trained with the network.

    Parameters
    ----------
    samples
        The points; their mean and spread are taken for the network's units.
    seed
        Of the initial weights.
    """

    def __init__(self, samples: Samples, seed: int = 0):
        super().__init__()
        n = samples.misfit.shape[1]
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randn(n, CODES, generator=generator, dtype=torch.float64)
        self.codes = nn.Parameter(codes)
        self.net = femnn.MLP(2 + CODES, *WIDTHS, 1, seed=seed)
        self.level = nn.Parameter(torch.from_numpy(samples.misfit.mean(axis=0)))

    def forward(self, theta: Tensor) -> Tensor:
        """The misfits of all stations at numbers of shape ``(stations, 2)``."""
        return self.level + self.net(torch.cat([theta / 2, self.codes], 1))[:, 0]

    def slopes(self, theta: Tensor) -> Tensor:
        """The misfits' derivatives, shape ``(stations, 2)``."""
        return grad(lambda at: self(at).sum())(theta)


def fit_surrogate(samples: Samples, gradients: bool, iterations: int, seed: int = 0) -> Surrogate:
    """Fit a network to the samples, with or without their gradients."""
    surrogate = Surrogate(samples, seed)
    theta, misfit, slopes = (
        torch.from_numpy(x) for x in (samples.theta, samples.misfit, samples.gradient)
    )

    def loss() -> Tensor:
        total = (vmap(surrogate)(theta) - misfit).square().mean()
        if gradients:
            total = total + (vmap(surrogate.slopes)(theta) - slopes).square().sum(2).mean()
        return total + 1e-6 * sum(p.square().sum() for p in surrogate.net.parameters())

    minimise(list(surrogate.parameters()), loss, iterations)
    return surrogate


def minimise(parameters: list[nn.Parameter], loss, iterations: int) -> float:
    """L-BFGS of torch on a loss that is a torch computation; the loss at the end."""
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-12,
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return float(loss().detach())


def surrogate_error(surrogate: Surrogate, samples: Samples) -> float:
    """Root mean square of the error in the logarithm of a station's root mean square error."""
    with torch.no_grad():
        found = vmap(surrogate)(torch.from_numpy(samples.theta)).numpy()
    return float(np.sqrt(np.mean((0.5 * (found - samples.misfit)) ** 2)))


def train_through(
    surrogate: Surrogate,
    law: ByAttributes,
    stations: list[int],
    n_data: np.ndarray,
    noise: float,
    prior: femnn.GaussianPrior,
    iterations: int = 500,
) -> ByAttributes:
    """Train a law of attributes, in place, with the surrogate in the model's place.

    The prior and the size of the errors are given.
    """
    at = torch.tensor(stations)
    parameters = [p for p in law.parameters() if p.requires_grad]
    counts = torch.from_numpy(n_data / (2 * noise**2))
    precision, mean = (torch.as_tensor(x) for x in (prior.of_entries(), prior.mean))

    def loss() -> Tensor:
        weights = torch.cat([p.reshape(-1) for p in parameters])
        energy = 0.5 * (precision * (weights - mean) ** 2).sum()
        return (counts * torch.exp(surrogate(law.theta(at)))).sum() + energy

    for parameter in surrogate.parameters():
        parameter.requires_grad_(False)
    minimise(parameters, loss, iterations)
    return law
