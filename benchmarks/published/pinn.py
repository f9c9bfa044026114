"""A physics-informed network for u_t = (k(x) u_x)_x with unknown k; torch only.

As in the paper's repository: u is a 2-16-16-16-1 network of (x, t) with tanh, k a 1-30-1 one; the
mixed form has a third network for the flux, so that k is not differentiated.  All terms of the
loss are means of squares.  Trained by torch's L-BFGS with the strong Wolfe line search.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published.training import Timer

NAMES = ("equation", "boundary", "initial", "data")
REGULARISATION = 1e-8


@dataclass(frozen=True)
class Observations:
    """Values of u.

    Attributes
    ----------
    x
        Nodes, shape ``(n,)``.
    t
        Times, shape ``(m,)``, the first 0.
    u
        Values, shape ``(m, n)``; the first row is the initial state.
    """

    x: np.ndarray
    t: np.ndarray
    u: np.ndarray


def deep() -> nn.Sequential:
    """The network for u, and for the flux."""
    widths = ((2, 16), (16, 16), (16, 16))
    layers = [part for n_in, n_out in widths for part in (nn.Linear(n_in, n_out), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 1))


def shallow() -> nn.Sequential:
    """The network for k, all parameters from U[0, 1)."""
    net = nn.Sequential(nn.Linear(1, 30), nn.Tanh(), nn.Linear(30, 1))
    for p in net.parameters():
        nn.init.uniform_(p)
    return net


class Pinn(nn.Module):
    """The networks and their loss.

    Parameters
    ----------
    data
        What is observed.
    cells, steps
        The points inside are ``cells - 1`` nodes at ``steps`` times after the first.
    mixed
        Whether the flux has a network of its own.
    """

    def __init__(self, data: Observations, cells: int, steps: int, mixed: bool):
        super().__init__()
        self.u, self.flux, self.k = deep(), deep() if mixed else None, shallow()
        self.double()
        end = float(data.t[-1])
        inside = torch.linspace(0, 1, cells + 1, dtype=torch.float64)[1:-1]
        times = torch.linspace(0, end, steps + 1, dtype=torch.float64)[1:]
        self.inside = _pairs(inside, times).requires_grad_(True)
        self.sides = _pairs(torch.tensor([0.0, 1.0], dtype=torch.float64), times)
        x, values = torch.from_numpy(data.x), torch.from_numpy(data.u)
        self.start = (_pairs(x, torch.zeros(1, dtype=torch.float64)), values[0][:, None])
        self.observed = (_pairs(x, torch.from_numpy(data.t[1:])), values[1:].reshape(-1, 1))

    def equation(self) -> Tensor:
        """The mean squared residual of the differential equation."""
        points = self.inside
        slope = _derivative(self.u(points), points)
        u_x, u_t = slope[:, :1], slope[:, 1:]
        flux = self.k(points[:, :1]) * u_x
        if self.flux is None:
            return _mean_square(u_t - _derivative(flux, points)[:, :1])
        own = self.flux(points)
        return _mean_square(u_t - _derivative(own, points)[:, :1]) + _mean_square(own - flux)

    def terms(self) -> list[Tensor]:
        """The terms of the loss, in the order of ``NAMES``."""
        fits = [_mean_square(self.u(x) - u) for x, u in (self.start, self.observed)]
        return [self.equation(), _mean_square(self.u(self.sides)), *fits]

    def loss(self, weights: tuple[float, ...]) -> Tensor:
        """The weighted sum of the terms, and the small penalty on k."""
        total = sum(w * term for w, term in zip(weights, self.terms(), strict=True))
        return total + REGULARISATION * _mean_square(self.k(self.inside[:, :1]))


class _Stop(Exception):
    """Ends the optimiser's loop."""


class _Closure:
    """The loss with its gradient for torch's optimiser; keeps the best parameters.

    Parameters
    ----------
    pinn, weights
        The networks, and the weights of the loss's terms.
    optimiser
        Whose gradients are set.
    seconds
        When to end the optimiser's loop.
    """

    def __init__(self, pinn: Pinn, weights: tuple[float, ...], optimiser, seconds: float):
        self.pinn, self.weights, self.optimiser = pinn, weights, optimiser
        self.limit, self.timer = seconds, Timer()
        self.losses: list[float] = []
        self.best, self.state = np.inf, pinn.state_dict()

    def __call__(self) -> Tensor:
        if self.timer.seconds() > self.limit:
            raise _Stop
        self.optimiser.zero_grad()
        loss = self.pinn.loss(self.weights)
        loss.backward()
        self.losses.append(float(loss.detach()))
        if self.losses[-1] < self.best:
            self.best = self.losses[-1]
            self.state = {name: x.clone() for name, x in self.pinn.state_dict().items()}
        return loss


def train(
    data: Observations,
    *,
    cells: int,
    steps: int,
    mixed: bool,
    weights: tuple[float, ...],
    seed: int,
    iterations: int,
    seconds: float = np.inf,
) -> tuple[Pinn, dict]:
    """Train until the iterations or the time are spent; the best parameters are kept.

    Returns
    -------
    Pinn
        The trained networks.
    dict
        ``loss``, ``initial_loss``, ``iterations``, ``evaluations``, ``seconds``, and ``terms``
        by name.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pinn = Pinn(data, cells, steps, mixed)
    settings = {"max_iter": iterations, "history_size": 1000, "tolerance_change": 0}
    optimiser = torch.optim.LBFGS(pinn.parameters(), **settings, line_search_fn="strong_wolfe")
    closure = _Closure(pinn, weights, optimiser, seconds)
    with contextlib.suppress(_Stop):
        optimiser.step(closure)
    spent = closure.timer.seconds()
    pinn.load_state_dict(closure.state)
    state = next(iter(optimiser.state.values()))
    return pinn, {
        "loss": closure.best,
        "initial_loss": closure.losses[0],
        "iterations": int(state["n_iter"]),
        "evaluations": len(closure.losses),
        "seconds": spent,
        "terms": {n: float(t.detach()) for n, t in zip(NAMES, pinn.terms(), strict=True)},
    }


def values(
    pinn: Pinn, points: np.ndarray, x: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The values of k at ``points``, shape ``(n,)``, and of u at ``t`` and ``x``, ``(m, n)``."""
    with torch.no_grad():
        k = pinn.k(torch.from_numpy(points)[:, None])[:, 0].numpy()
        u = pinn.u(_pairs(torch.from_numpy(x), torch.from_numpy(t)))
    return k, u.reshape(len(t), len(x)).numpy()


def _pairs(x: Tensor, t: Tensor) -> Tensor:
    """All (x, t), the times outermost, shape ``(len(t) * len(x), 2)``."""
    return torch.cartesian_prod(t, x).flip(1).contiguous()


def _derivative(values: Tensor, points: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), points, create_graph=True)[0]


def _mean_square(values: Tensor) -> Tensor:
    return (values**2).mean()
