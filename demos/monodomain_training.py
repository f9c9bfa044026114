"""Training of the membrane's networks: from splines, then through the tissue."""

from collections.abc import Callable

import common
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from hodgkin_huxley import SPREAD
from monodomain_model import OBSERVED, STEPS, Observations, Tissue
from torch import Tensor, nn

import femnn

SCALES = torch.tensor([SPREAD, 1.0, 1.0, 1.0], dtype=torch.float64)  # of v, m, h and n
EVEN = 0.3  # part of the samples that is drawn evenly, the others where rates are large


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
    """The misfit after intervals that start from observations, with its gradient by adjoints.

    Parameters
    ----------
    tissue
        The model.
    data
        The observations.
    count
        Number of intervals, evenly spread.
    """

    def __init__(self, tissue: Tissue, data: Observations, count: int):
        last = len(data.stimulus) - 1
        self.chosen = np.unique(np.linspace(0, last, min(count, last + 1)).round().astype(int))
        self.data, self.layer = data, self._record(tissue)
        self.area = assemble(Constant(1.0) * dx(tissue.mesh))

    def _record(self, tissue: Tissue) -> femnn.PDELayer:
        v, gates = tissue.splitting.solution
        seen, seen_gates = Function(v), Function(gates)
        self.controls = [v.copy(deepcopy=True), gates.copy(deepcopy=True), tissue.stimulus]
        get_working_tape().clear_tape()
        continue_annotation()
        v.assign(self.controls[0])
        gates.assign(self.controls[1])
        for _ in range(STEPS):
            tissue.splitting.step()
        apart = ((v - seen) / SPREAD) ** 2 + inner(gates - seen_gates, gates - seen_gates)
        J = femnn.assemble(apart * dx)
        pause_annotation()
        self.controls += [seen, seen_gates]
        controls = [tissue.splitting.weights, *self.controls]
        return femnn.PDELayer(ReducedFunctional(J, [Control(c) for c in controls]))

    def __call__(self) -> Tensor:
        """The mean over the intervals, nodes and the four components."""
        values = torch.from_numpy(self.data.values)
        stimulus = torch.from_numpy(self.data.stimulus)
        total = sum(
            self.layer(
                values[k, :, 0],
                values[k, :, 1:],
                stimulus[k],
                values[k + 1, :, 0],
                values[k + 1, :, 1:],
            )
            for k in self.chosen
        )
        return total / (4 * self.area * len(self.chosen))


def minimise(net: nn.Module, misfit: Callable[[], Tensor], iterations: int) -> dict:
    """Train with torch's L-BFGS and the published settings; what was reached."""
    watch, losses = common.Stopwatch(), []
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
        "seconds": watch.seconds(),
    }
