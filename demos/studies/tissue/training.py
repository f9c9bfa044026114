"""Training of the membrane's networks: from splines, then through the tissue."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from torch import Tensor, nn

import femnn

from .membrane import SPREAD
from .model import OBSERVED, STEPS, Observations, Tissue

SCALES = torch.tensor([SPREAD, 1.0, 1.0, 1.0], dtype=torch.float64)  # of v, m, h and n
EVEN = 0.3  # part of the samples that is drawn evenly, the others where rates are large
SIDE_BY_SIDE = 10  # windows at most


@dataclass(frozen=True)
class Plan:
    """Of a training in two stages.

    Attributes
    ----------
    rates, samples
        Iterations of the first stage, and how many samples it takes.
    windows, window, iterations
        Of the second stage: the windows, the length of each in intervals between observations.
    seed
        Of the draw of samples.
    """

    rates: int = 1500
    samples: int = 6000
    windows: int = 9
    window: int = 10
    iterations: int = 40
    seed: int = 123


class WithoutTheTissue:
    """The misfit of the rates to those of splines through the observations, without the PDE.

    Parameters
    ----------
    net
        The module that is trained.
    data
        The observations.
    count
        Number of samples, each a node and a time.
    seed
        Of the draw.
    """

    def __init__(self, net: nn.Module, data: Observations, count: int, seed: int):
        inputs, rates = data.rates()
        sizes = np.linalg.norm(rates / SCALES.numpy(), axis=1)
        chances = (1 - EVEN) * sizes / sizes.sum() + EVEN / len(sizes)
        generator = np.random.default_rng(seed)
        rows = generator.choice(len(sizes), min(count, len(sizes)), replace=False, p=chances)
        self.net = net
        self.inputs, self.rates = torch.from_numpy(inputs[rows]), torch.from_numpy(rates[rows])

    def __call__(self) -> Tensor:
        """The mean over the samples and the four components."""
        return ((OBSERVED * (self.net(self.inputs) - self.rates) / SCALES) ** 2).mean()


class ThroughTheTissue:
    """The misfit of windows that start from observations, with its gradient by adjoints.

    A window is run through the splitting and compared at each observation in it.  Windows are run
    side by side, as entries of vectors: a step then costs little more than that of one.

    Parameters
    ----------
    net
        The module that is trained.
    data
        The observations.
    starts
        The first observation of each window.
    window
        Length of each in intervals between observations.
    runs
        Number of windows side by side, which divides that of all; by default the largest up to 10.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Observations,
        starts: np.ndarray,
        window: int = 1,
        runs: int | None = None,
    ):
        fits = [d for d in range(1, SIDE_BY_SIDE + 1) if len(starts) % d == 0]
        self.net, self.mesh = net, data.tissue.mesh
        self.window, self.runs = window, fits[-1] if runs is None else runs
        self.inputs = [self._inputs(data, group) for group in starts.reshape(-1, self.runs)]
        self.misfit = self.record()
        self.count = 4 * len(starts) * window * assemble(Constant(1.0) * dx(self.mesh))

    def __call__(self) -> Tensor:
        """The mean over the windows' observations, the square and the four components."""
        return sum(self.misfit(*inputs) for inputs in self.inputs) / self.count

    def record(self) -> Callable[..., Tensor]:
        """What gives the sum for windows side by side, from what :meth:`_inputs` returns."""
        tissue = Tissue(self.mesh, self.net, runs=self.runs)
        v, gates = tissue.splitting.solution
        start = [v.copy(deepcopy=True), gates.copy(deepcopy=True)]
        likes = (tissue.stimulus, v, gates)
        observed = [[Function(f.function_space()) for f in likes] for _ in range(self.window)]
        J = 0.0
        with set_working_tape(Tape()):
            continue_annotation()
            v.assign(start[0])
            gates.assign(start[1])
            for stimulus, seen, seen_gates in observed:
                tissue.stimulus.assign(stimulus)
                for _ in range(STEPS):
                    tissue.splitting.step()
                apart, gates_apart = (v - seen) / SPREAD, gates - seen_gates
                misfit = inner(apart, apart) + inner(gates_apart, gates_apart)
                J += femnn.assemble(misfit * dx)
            pause_annotation()
            controls = [tissue.splitting.weights, *start, *chain.from_iterable(observed)]
            return femnn.PDELayer(ReducedFunctional(J, [Control(c) for c in controls]))

    def _inputs(self, data: Observations, starts: np.ndarray) -> list[Tensor]:
        """The first v and gates; of each interval the stimulus, and v and gates at its end."""
        v, gates = data.values[:, :, 0], data.values[:, :, 1:]
        rows = [v[starts], gates[starts]]
        for k in range(self.window):
            rows += [data.stimulus[starts + k], v[starts + k + 1], gates[starts + k + 1]]
        nodes = [np.moveaxis(r, 0, 1) for r in rows]
        shape = (-1,) if self.runs == 1 else (-1, self.runs)
        shapes = [shape if x.ndim == 2 else (len(x), 3 * self.runs) for x in nodes]
        return [torch.tensor(x.reshape(s)) for x, s in zip(nodes, shapes, strict=True)]


def minimise(net: nn.Module, misfit: Callable[[], Tensor], iterations: int) -> dict:
    """Train with torch's L-BFGS and the published settings; what was reached."""
    began, losses = time.process_time(), []
    optimiser = torch.optim.LBFGS(
        net.parameters(),
        max_iter=iterations,
        max_eval=10 * iterations,
        history_size=100,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = misfit()
        loss.backward()
        losses.append(loss.item())
        return loss

    if iterations > 0:
        optimiser.step(closure)
    with torch.no_grad():
        loss = misfit().item()
    return {
        "loss": loss,
        "initial_loss": losses[0] if losses else loss,
        "evaluations": len(losses),
        "history": losses,
        "seconds": time.process_time() - began,
    }


def stages(net: nn.Module, data: Observations, plan: Plan) -> Iterator[tuple[str, dict]]:
    """Train from splines, then through the tissue; after each stage its name and outcome."""
    first = WithoutTheTissue(net, data, plan.samples, plan.seed)
    yield "rates", minimise(net, first, plan.rates)
    starts = data.windows(plan.windows, plan.window)
    second = ThroughTheTissue(net, data, starts, plan.window)
    yield "tissue", minimise(net, second, plan.iterations)
