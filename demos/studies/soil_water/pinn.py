"""The rival: a physics-informed network of the head, trained together with the laws' networks.

The equation is one more term of the loss at collocation points, so no step in time is solved.
M. Raissi, P. Perdikaris, G. E. Karniadakis: Physics-informed neural networks, J. Comput. Phys.
378 (2019).
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

import femnn
from demos.studies.common import Stopwatch

from .data import Evaporation
from .laws import Laws, pF
from .model import WATER_ERROR

HEAD_ERROR = 0.01  # of log10(-h), the unit of the data's part of the loss


def train(
    parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], adam: int, lbfgs: int
) -> list[float]:
    """Minimise by Adam with a falling rate, then by L-BFGS; the losses on the way."""
    parameters = list(parameters)
    history = []
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, adam), eta_min=1e-4)
    for step in range(adam):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        falling.step()
        if step % 100 == 0:
            history.append(float(value.detach()))
    second = torch.optim.LBFGS(
        parameters, max_iter=lbfgs, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        second.zero_grad()
        value = loss()
        value.backward()
        return value

    second.step(closure)
    return [*history, float(loss().detach())]


def slope(y: Tensor, x: Tensor) -> Tensor:
    """The derivative of each value by its own input."""
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


class Head(nn.Module):
    """The head h(z, t) by a network of depth, time and its root, whose output is pF - 2."""

    def __init__(self, experiment: Evaporation, width: int, seed: int):
        super().__init__()
        end = float(experiment.times[-1])
        ranges = [(0.0, experiment.height), (0.0, end), (0.0, end**0.5)]
        self.net = femnn.MLP(3, width, width, width, 1, input_range=ranges, seed=seed)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return -(10 ** (2 + self.net(torch.cat([z, t, torch.sqrt(t)], 1))))


class Pinn:
    """Head and laws as networks, with data and equation in one loss.

    The parts are mean squares: of log10(-h) at the fitted depths and at the start over
    ``HEAD_ERROR``, of the mean water content at the end over its error, and, times ``weight``, of
    the equation over the mean rate of drying, of the flow at the top over the mean evaporation,
    and of that at the bottom.

    Parameters
    ----------
    experiment, laws
        What was measured; networks of theta and K, trained in place.
    depths
        The fitted ones, cm.
    weight
        Of the equation and the flows at the ends.
    width, seed
        Of the network of the head.
    points
        Collocation points in depth, and in each interval between readings.
    """

    def __init__(
        self,
        experiment: Evaporation,
        laws: Laws,
        depths: tuple[float, ...],
        weight: float = 1.0,
        width: int = 32,
        seed: int = 0,
        points: tuple[int, int] = (12, 3),
    ):
        self.experiment, self.laws, self.weight = experiment, laws, weight
        self.head = Head(experiment, width, seed)
        self.drying = experiment.evaporated / float(experiment.times[-1])  # cm/d
        columns = experiment.columns(depths)
        z, t = np.meshgrid(experiment.depths[columns], experiment.times)
        self.places = column(z), column(t)
        self.measured = torch.log10(-column(experiment.heads[:, columns]))
        self.depths = column((np.arange(points[0]) + 0.5) / points[0] * experiment.height)
        self._collocate(*points)

    def _collocate(self, n_depths: int, n_times: int) -> None:
        """Points inside, and at the top with the evaporation then."""
        known = self.experiment
        starts = np.r_[0.0, known.times[:-1]]
        inside = (np.arange(n_times) + 0.5) / n_times
        times = (starts[:, None] + (known.times - starts)[:, None] * inside).ravel()
        z, t = np.meshgrid(self.depths.numpy(), times)
        self.z, self.t = column(z).requires_grad_(), column(t).requires_grad_()
        self.at_ends = column(times)
        self.flux = column(np.repeat(known.flux, n_times))

    def flow(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Head and flow down, cm/d."""
        h = self.head(z, t)
        return h, -torch.exp(self.laws.log_K(h)) * (slope(h, z) - 1)

    def loss(self) -> Tensor:
        h, q = self.flow(self.z, self.t)
        rate = self.drying / self.experiment.height
        equation = (slope(self.laws.theta(h), self.t) + slope(q, self.z)) / rate
        top, bottom = (
            torch.full_like(self.at_ends, end).requires_grad_()
            for end in (0.0, self.experiment.height)
        )
        leaving = (self.flow(top, self.at_ends)[1] + self.flux) / self.drying
        below = self.flow(bottom, self.at_ends)[1] / self.drying
        physics = sum((r**2).mean() for r in (equation, leaving, below))
        return self._of_data() + self.weight * physics

    def _of_data(self) -> Tensor:
        known = self.experiment
        first, last = known.at_start
        start = first + (last - first) * self.depths / known.height
        zero = torch.zeros_like(self.depths)
        parts = (
            (pF(self.head(*self.places)) - self.measured) / HEAD_ERROR,
            (pF(self.head(self.depths, zero)) - pF(start)) / HEAD_ERROR,
            (self.mean_content(float(known.times[-1])) - known.mean_at_end) / WATER_ERROR,
        )
        return sum((r**2).mean() for r in parts)

    def mean_content(self, time: float) -> Tensor:
        """The water content of the whole column."""
        return self.laws.theta(self.head(self.depths, torch.full_like(self.depths, time))).mean()

    def heads(self) -> np.ndarray:
        """The network's heads where they were measured, shape (times, depths)."""
        z, t = np.meshgrid(self.experiment.depths, self.experiment.times)
        with torch.no_grad():
            return self.head(column(z), column(t)).numpy().reshape(z.shape)

    def water_budget(self) -> dict[str, float]:
        """Water in cm: what the column loses by the networks, and what evaporates."""
        known = self.experiment
        with torch.no_grad():
            stored = [float(self.mean_content(t)) for t in (0.0, *known.times)]
        lost = -known.height * np.diff(stored)
        gone = known.flux * np.diff(known.times, prepend=0.0)
        return {
            "lost": float(lost.sum()),
            "evaporated": known.evaporated,
            "largest difference in an interval": float(np.abs(lost - gone).max()),
        }

    def train(self, adam: int, lbfgs: int) -> dict:
        """Train all networks; how it went."""
        watch = Stopwatch()
        parameters = [*self.head.parameters(), *self.laws.parameters()]
        losses = train(parameters, self.loss, adam, lbfgs)
        return {"losses": losses, "weight": self.weight, "seconds": watch.seconds()}


def column(values: np.ndarray) -> Tensor:
    """Numbers one below the other."""
    return torch.tensor(np.asarray(values, dtype=float)).reshape(-1, 1)
