"""Physics-informed networks of the steady flows, and the table of both ways."""

import copy

import numpy as np
import torch
from torch import Tensor

import femnn
from demos.studies.common import Stopwatch

from .darcy import Data, Problem, by_elements, errors, measured, problems, started
from .pinn import column, slope, train

HELD = 5  # every fifth station validates the equation's weight


class SteadyPinn:
    """Head and law as networks, with data and equation in one loss.

    Parts are mean squares: of the heads over their error, and, times ``weight``, of the equation
    and of the flows through three sides over the mean inflow, of the head at x = 1 over its error.
    """

    def __init__(
        self,
        problem: Problem,
        data: Data,
        weight: float,
        seed: int,
        which: np.ndarray | None = None,
        side: int = 20,
        width: int = 32,
    ):
        self.problem, self.weight, self.error = problem, weight, data.error
        self.law = copy.deepcopy(started(problem, seed))
        self.net = femnn.MLP(2, width, width, width, 1, input_range=(0.0, 1.0), seed=seed)
        kept = slice(None) if which is None else which
        self.points, self.heads = torch.tensor(data.points[kept]), column(data.heads[kept])
        inner = (np.arange(side) + 0.5) / side
        x, y = np.meshgrid(inner, inner)
        self.inside = column(x).requires_grad_(), column(y).requires_grad_()
        self.edge = column(np.linspace(0, 1, 2 * side))
        self.inflow = problem.inflow(self.edge, torch.cos)

    def head(self, x: Tensor, y: Tensor) -> Tensor:
        return self.problem.outside + self.problem.scale * self.net(torch.cat([x, y], 1))

    def flow(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The two components of -K grad u."""
        u = self.head(x, y)
        K = self.law(u if self.problem.of_head else torch.cat([x, y], 1))
        return -K * slope(u, x), -K * slope(u, y)

    def loss(self) -> Tensor:
        x, y = self.inside
        along, across = self.flow(x, y)
        physics = ((slope(along, x) + slope(across, y)) ** 2).mean()
        zero, one = (torch.full_like(self.edge, end).requires_grad_() for end in (0.0, 1.0))
        edge = self.edge.clone().requires_grad_()
        physics = physics + ((self.flow(zero, edge)[0] - self.inflow) ** 2).mean()
        for side in (zero, one):
            physics = physics + (self.flow(edge, side)[1] ** 2).mean()
        beyond = (self.head(one, edge) - self.problem.outside) / self.error
        misfit = (self.head(*self.points.T[..., None]) - self.heads) / self.error
        return (misfit**2).mean() + (beyond**2).mean() + self.weight * physics

    def at(self, points: np.ndarray) -> np.ndarray:
        """Heads at points."""
        with torch.no_grad():
            return self.head(*torch.tensor(points).T[..., None]).numpy().ravel()

    def train(self, adam: int, lbfgs: int) -> float:
        """Train both networks; seconds."""
        watch = Stopwatch()
        train([*self.net.parameters(), *self.law.parameters()], self.loss, adam, lbfgs)
        return watch.seconds()


def chosen(problem: Problem, data: Data, args) -> tuple[float, list[dict]]:
    """The equation's weight with the least error at every fifth station, not trained."""
    held = np.arange(len(data.points)) % HELD == 0
    tried = []
    for weight in args.darcy_weights:
        pinn = SteadyPinn(problem, data, weight, args.seed, ~held)
        seconds = pinn.train(args.darcy_adam // 2, args.darcy_lbfgs // 2)
        difference = pinn.at(data.points[held]) - data.heads[held]
        error = float(np.sqrt(np.mean(difference**2))) / data.error
        tried.append({"weight": weight, "validation": error, "seconds": seconds})
    return min(tried, key=lambda t: t["validation"])["weight"], tried


def table(args) -> list[dict]:
    """Both ways for both problems and each number of stations."""
    rows: list[dict] = []
    for problem in problems(tuple(args.stations), args.seed):
        sets = {n: measured(problem, n, args.seed) for n in problem.stations}
        weight, tried = chosen(problem, sets[max(sets)], args)
        for n, data in sets.items():
            row = {"problem": problem.name, "stations": n, "weight": weight, "tried": tried}
            row["femnn"] = by_elements(problem, data, args.seed, args.darcy_cells, args.rounds)
            pinn = SteadyPinn(problem, data, weight, args.seed)
            seconds = pinn.train(args.darcy_adam, args.darcy_lbfgs)
            row["PINN"] = errors(problem, data, pinn.law, pinn.at(data.grid))
            row["PINN"] |= {"seconds": seconds, "law": pinn.law}
            row["range"] = [float(data.true_heads.min()), float(data.true_heads.max())]
            rows.append(row)
            print(summary(row), flush=True)
    return rows


def summary(row: dict) -> str:
    """A row in words."""
    parts = [
        f"{way}: K {row[way]['K']:.2%}, head {row[way]['head']:.2%}, {row[way]['seconds']:.0f} s"
        for way in ("femnn", "PINN")
    ]
    return f"{row['problem']}, {row['stations']} stations: " + "; ".join(parts)
