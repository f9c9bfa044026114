"""Learn the membrane of excitable tissue from a wave, with two networks beside the PDE's solver.

The monodomain equation on a square of 25 mm, and the membrane of Hodgkin and Huxley at each node,
``v_t = div(D grad v) + stimulus - current(v, m, h, n)`` and ``(m, h, n)_t = rates(v, m, h, n)``,
with v in mV, t in ms, D = 0.174 / (140 * 0.01) mm^2/ms.  One network stands for the current, one
for the gates' rates; Lie splitting keeps both out of the solver, whose matrix never changes.

The setting is that of S. K. Mitusch, S. W. Funke, M. Kuchta, Hybrid FEM-NN models, J. Comput. Phys.
446 (2021): 15 x 15 cells, P1; 100 mV/ms at one corner node from t = 3 to 4, to t = 30; networks
4-16-16-16-1 and 4-16-16-16-3; an explicit Euler step of 0.01 for the membrane and an implicit one
for diffusion; observations each 0.1, from which the model starts again each time; torch's L-BFGS.
The test is a finer mesh, with crossed diagonals, whose middle is stimulated each 25 ms to t = 100.

Four things differ.  They observe v alone and let the states start at zero, as the network's own;
here v, m, h and n are observed.  Their data come from the same scheme with step 0.001, ours from
Strang splitting, of second order, with step 0.02.  They train through the PDE from small weights,
10,000 iterations with all 300 intervals between observations; here that is the last of three
stages, with some of the intervals:

1. The networks are fitted to the rates of splines through the observations, without the PDE.
2. The membrane is stepped from one observation to the next at single nodes, with what diffusion
   adds taken from the observations.
3. All nodes are stepped through the splitting, with adjoints: :class:`femnn.PDELayer`.

``--rates 0 --steps 0 --intervals 300 --iterations 10000 --shrink 0.001`` trains in their way.

Errors are relative l2 errors of v above the rest, over nodes and times, of runs that see nothing
but the stimulus; without "above the rest" they are three to four times smaller.  The activation is
the time at which v passes -35 mV.  The errors stand next to those of the true membrane with the
model's scheme, which is what the step of 0.01 costs: the wave runs at another speed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import common
import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from hodgkin_huxley import REST, SPREAD, LearnedMembrane, Membrane, resting_gates
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

import femnn
from femnn.parallel import max_over_ranks

DIFFUSIVITY = 0.174 / (140 * 0.01)  # mm^2/ms: conductivity, surface per volume, capacity
SIDE = 25.0  # mm
STRENGTH = 100.0  # mV/ms, of a stimulus
STEP, FINE_STEP = 0.01, 0.02  # ms; the finer scheme is of second order
OBSERVED = 0.1  # ms between observations
STEPS = round(OBSERVED / STEP)
ACTIVE = -35.0  # mV
SCALES = torch.tensor([SPREAD, 1.0, 1.0, 1.0], dtype=torch.float64)  # of v, m, h and n
SAMPLES = 6000  # in the first stage, half as many in the second
EVEN = 0.3  # part of the samples that is drawn evenly, the others where the rates are large
ERRORS = {
    "v": ("v", ".2%"),
    "activation": ("activation (ms)", ".3f"),
    "missed": ("missed or extra", "d"),
}
TRAINING = {
    "initial_loss": ("loss at first", ".3e"),
    "loss": ("loss", ".3e"),
    "evaluations": ("evaluations", "d"),
    "seconds": ("seconds", ".1f"),
}


@dataclass(frozen=True)
class Protocol:
    """A stimulus of 1 ms at nodes.

    ``is_within`` takes the nodes' coordinates in units of the side and says which are stimulated;
    times are in ms.
    """

    is_within: Callable
    begin: float
    end: float
    period: float = np.inf

    def is_on(self, t: float) -> bool:
        """Whether the stimulus acts at this time."""
        return self.begin <= t % self.period < self.begin + 1


CORNER = Protocol(lambda x, y: np.maximum(x, y) < 1e-6, begin=3.0, end=30.0)
CENTRE = Protocol(
    lambda x, y: np.maximum(abs(x - 0.5), abs(y - 0.5)) < 0.2 + 1e-6,
    begin=5.0,
    end=100.0,
    period=25.0,
)


class Tissue:
    """The monodomain equation, with a module of ``hodgkin_huxley`` at each node.

    Parameters
    ----------
    mesh
        Of the square.
    membrane
        The module.
    fine
        Whether to use the scheme that data are made with.
    """

    def __init__(self, mesh, membrane: nn.Module, fine: bool = False):
        self.V, self.mesh = FunctionSpace(mesh, "P", 1), mesh
        names = ("v", "v before", "stimulus")
        self.v, self.before, self.stimulus = (Function(self.V, name=name) for name in names)
        self.gates = Function(VectorFunctionSpace(mesh, "P", 1, dim=3), name="gates")
        self.step = FINE_STEP if fine else STEP
        w, dt, theta = TestFunction(self.V), Constant(self.step), 0.5 if fine else 1.0
        flux = DIFFUSIVITY * grad(theta * self.v + (1 - theta) * self.before)
        F = (self.v - self.before) / dt * w * dx + inner(flux, grad(w)) * dx
        lu = {
            "snes_type": "ksponly",
            "ksp_type": "preonly",
            "pc_type": "lu",
            "pc_factor_mat_solver_type": "petsc" if mesh.comm.size == 1 else "mumps",
        }
        problem = femnn.NeuralVariationalProblem(F, self.v)
        self.splitting = (femnn.StrangSplitting if fine else femnn.LieSplitting)(
            femnn.NeuralVariationalSolver(problem, solver_parameters=lu),
            self.before,
            membrane,
            self.stimulus,
            dt=dt,
            states=[self.gates],
            method="rk4" if fine else "forward_euler",
        )
        x = Function(VectorFunctionSpace(mesh, "P", 1)).interpolate(SpatialCoordinate(mesh))
        self.nodes = x.dat.data_ro / max_over_ranks(mesh.comm, x.dat.data_ro.max())

    def stimulate(self, protocol: Protocol, t: float) -> np.ndarray:
        """The stimulus at this rank's nodes, also put into the model."""
        values = STRENGTH * protocol.is_within(*self.nodes.T) * protocol.is_on(t)
        self.stimulus.dat.data_wo[:] = values
        return values

    def march(self, protocol: Protocol, end: float) -> Iterator[None]:
        """All steps from the rest; stops at each observation."""
        self.v.assign(REST)
        self.gates.assign(Constant(resting_gates()))
        every = round(OBSERVED / self.step)
        yield
        for k in range(round(end / self.step)):
            self.stimulate(protocol, (k + 0.5) * self.step)
            self.splitting.step()
            if (k + 1) % every == 0:
                yield

    def record(self, protocol: Protocol, end: float) -> np.ndarray:
        """The stimulus' course (v, m, h, n) at this rank's nodes: (times, nodes, 4)."""
        return np.array(
            [
                np.column_stack([self.v.dat.data_ro, self.gates.dat.data_ro])
                for _ in self.march(protocol, end)
            ]
        )

    def together(self, local: np.ndarray) -> np.ndarray:
        """Arrays (times, nodes, ...) of all ranks as one, nodes by y and then x.  Collective."""
        nodes = np.concatenate(self.mesh.comm.allgather(self.nodes))
        values = np.concatenate(self.mesh.comm.allgather(local), axis=1)
        return values[:, np.lexsort(nodes.round(6).T)]


class Observations:
    """What was observed, and what diffusion and stimulus have added to v meanwhile.

    Parameters
    ----------
    tissue
        Any model on the mesh.
    values
        (v, m, h, n) at this rank's nodes, (times, nodes, 4).
    protocol
        The stimulus.

    Attributes
    ----------
    stimulus : numpy.ndarray
        In each interval, at this rank's nodes, in mV/ms.
    """

    def __init__(self, tissue: Tissue, values: np.ndarray, protocol: Protocol):
        self.tissue, self.values = tissue, values
        middles = OBSERVED * (np.arange(len(values) - 1) + 0.5)
        self.stimulus = np.array([tissue.stimulate(protocol, t) for t in middles])
        self.diffusion = self._diffusion()

    def _diffusion(self) -> np.ndarray:
        """What diffusion adds to v at each node and time, in mV/ms."""
        V = self.tissue.V
        v, added, w = Function(V), Function(V), TestFunction(V)
        weak = -DIFFUSIVITY * inner(grad(v), grad(w)) * dx
        problem = LinearVariationalProblem(
            TrialFunction(V) * w * dx, weak, added, constant_jacobian=True
        )
        solver, found = LinearVariationalSolver(problem), []
        for values in self.values:
            v.dat.data_wo[:] = values[:, 0]
            solver.solve()
            found.append(added.dat.data_ro.copy())
        return np.array(found)

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of the membrane and its rates, from splines where v has no kink in time."""
        times = OBSERVED * np.arange(len(self.values))
        slopes = CubicSpline(times, self.values)(times, 1)
        inputs = np.concatenate([self.values, self.diffusion[:, :, None]], axis=2)
        smooth = ~self.stimulus.any(axis=0)
        kept = (slice(4, -4), smooth)  # splines are poor at their ends
        return self._rows(inputs[kept]), self._rows(slopes[kept])

    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """At single nodes: the start of each interval, what is added to v, and the end."""
        added = self.stimulus + (self.diffusion[1:] + self.diffusion[:-1]) / 2
        length = np.full_like(added, OBSERVED)
        begin = np.concatenate([self.values[:-1], np.stack([added, length], axis=2)], axis=2)
        return self._rows(begin), self._rows(self.values[1:])

    def _rows(self, local: np.ndarray) -> np.ndarray:
        parts = self.tissue.mesh.comm.allgather(local.reshape(-1, local.shape[-1]))
        return np.concatenate(parts)


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
        return total / (4 * SIDE**2 * len(self.chosen))


def drawn(inputs: np.ndarray, wanted: np.ndarray, speeds: np.ndarray, count: int, seed: int):
    """Some samples as tensors, most of them where the speeds are large."""
    sizes = np.linalg.norm(speeds / SCALES.numpy(), axis=1)
    chances = (1 - EVEN) * sizes / sizes.sum() + EVEN / len(sizes)
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(sizes), min(count, len(sizes)), replace=False, p=chances)
    return torch.from_numpy(inputs[rows]), torch.from_numpy(wanted[rows])


def minimise(net: nn.Module, misfit: Callable[[], Tensor], iterations: int) -> dict:
    """torch's L-BFGS with the published settings."""
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


def train(tissue: Tissue, net: LearnedMembrane, data: Observations, chosen) -> dict[str, dict]:
    """The three stages; what each has reached."""
    inputs, rates = data.rates()
    x, rate = drawn(inputs, rates, rates, SAMPLES, chosen.seed)
    begin, end = data.intervals()
    start, later = drawn(begin, end, end - begin[:, :4], SAMPLES // 2, chosen.seed)
    step = femnn.RungeKutta(net, 4, "forward_euler", STEPS)
    through = ThroughTheTissue(tissue, data, chosen.intervals)
    stages = {
        "rates": (lambda: ((OBSERVED * (net(x) - rate) / SCALES) ** 2).mean(), chosen.rates),
        "single nodes": (lambda: (((step(start) - later) / SCALES) ** 2).mean(), chosen.steps),
        "tissue": (through, chosen.iterations),
    }
    return {name: minimise(net, *stage) for name, stage in stages.items()}


def activations(v: np.ndarray, protocol: Protocol) -> np.ndarray:
    """When v, (times, nodes), first becomes active after each stimulus; NaN where it does not."""
    below, above = v[:-1], v[1:]
    crosses = (below < ACTIVE) & (above >= ACTIVE)
    share = (ACTIVE - below) / np.where(crosses, above - below, 1.0)
    begins = OBSERVED * np.arange(len(below))
    times = np.where(crosses, begins[:, None] + OBSERVED * share, np.inf)
    beat = np.zeros(len(below)) if np.isinf(protocol.period) else begins // protocol.period
    firsts = np.array([times[beat == k].min(axis=0) for k in np.unique(beat)])
    return np.where(np.isinf(firsts), np.nan, firsts)


def errors_of(v: np.ndarray, truth: np.ndarray, protocol: Protocol) -> dict:
    """Of v, (times, nodes), and of the nodes' activation."""
    found, wanted = activations(v, protocol), activations(truth, protocol)
    both = ~np.isnan(found) & ~np.isnan(wanted)
    missed = int((np.isnan(found) != np.isnan(wanted)).sum())
    late = np.abs(found - wanted)[both]
    return {
        "v": common.relative_difference(v - REST, truth - REST),
        "v_of_all": common.relative_difference(v, truth),
        "activation": float(late.mean()) if both.any() else np.inf,
        "activated": int((~np.isnan(wanted)).sum()),
        "missed": missed,
    }


def draw(runs: dict[str, dict[str, np.ndarray]], cells: int) -> plt.Figure:
    """v in training at four times, and its course at two nodes for both stimuli."""
    figure, axes = plt.subplot_mosaic(
        "ABCD;EFGH;IIII;JJJJ",
        figsize=(12, 12),
        layout="constrained",
        height_ratios=[1, 1, 0.8, 0.8],
    )
    shown, nodes = runs["training"], np.linspace(0, SIDE, cells + 1)
    last = len(shown["data"]) - 1
    at = [round(last * share) for share in (0.3, 0.5, 0.7, 0.9)]
    for row, name in zip(("ABCD", "EFGH"), ("data", "networks"), strict=True):
        for letter, k in zip(row, at, strict=True):
            panel, v = axes[letter], shown[name][k].reshape(cells + 1, cells + 1)
            image = panel.contourf(nodes, nodes, v, np.linspace(-90, 45, 28), extend="both")
            panel.set(aspect="equal", title=f"{name}, t = {OBSERVED * k:.1f} ms", xticks=(0, SIDE))
            panel.set(yticks=(0, SIDE), xlabel="x (mm)", ylabel="y (mm)")
            panel.grid(False)
    figure.colorbar(image, ax=[axes[k] for k in "DH"], label="v (mV)", shrink=0.8)
    for letter, (case, found) in zip("IJ", runs.items(), strict=True):
        _draw_courses(axes[letter], found)
        axes[letter].set(xlabel="t (ms)", ylabel="v (mV)", title=f"stimulus of the {case}")
    return figure


def _draw_courses(panel, found: dict[str, np.ndarray]) -> None:
    count = found["data"].shape[1]
    styles = {"data": "-", "networks": "--", "true membrane, same scheme": ":"}
    for colour, node in (("C0", 0), ("C3", count // 2 + round(count**0.5) // 2)):
        for name, style in styles.items():
            v = found[name][:, node]
            times = OBSERVED * np.arange(len(v))
            label = name if node == 0 else None
            panel.plot(times, v, style, color=colour, label=label)
    panel.legend(loc="upper right")


def options():
    """The parser."""
    parser = common.options(__doc__.splitlines()[0], "output/monodomain", 15, 40, 123)
    counts = {
        "rates": (0, 1500, "L-BFGS iterations at most in the first stage"),
        "steps": (0, 1500, "L-BFGS iterations at most in the second stage"),
        "intervals": (1, 30, "intervals between observations in the last stage"),
        "end": (5, round(CORNER.end), "end of training in ms"),
        "test-end": (10, round(CENTRE.end), "end of the test in ms"),
    }
    for name, (lower, usual, text) in counts.items():
        parser.add_argument(f"--{name}", type=common.at_least(lower), default=usual, help=text)
    parser.add_argument("--shrink", type=float, default=1.0, help="factor of the initial weights")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Run the demo; returns the numbers that it writes."""
    watch = common.Stopwatch()
    chosen = options().parse_args(argv)
    net = LearnedMembrane(shrink=chosen.shrink, seed=chosen.seed)
    cases = {
        "training": (CORNER, chosen.end, "right"),
        "test": (CENTRE, chosen.test_end, "crossed"),
    }
    errors, runs, written, trainings = {}, {}, [], {}
    for case, (protocol, end, diagonal) in cases.items():
        mesh = RectangleMesh(chosen.cells, chosen.cells, SIDE, SIDE, diagonal=diagonal)
        values = Tissue(mesh, Membrane(), fine=True).record(protocol, end)
        model = Tissue(mesh, net)
        if case == "training":
            trainings = train(model, net, Observations(model, values, protocol), chosen)
        found = {
            "data": values,
            "true membrane, same scheme": Tissue(mesh, Membrane()).record(protocol, end),
            "networks": model.record(protocol, end),
        }
        whole = {name: model.together(v)[:, :, 0] for name, v in found.items()}
        for name, v in whole.items():
            if name != "data":
                errors[f"{name}, {case}"] = errors_of(v, whole["data"], protocol)
        runs[case] = whole
        if case == "training":
            written = [_last(model, name, v) for name, v in found.items()]
    common.show("Training:", trainings, TRAINING)
    common.show("Errors of v:", errors, ERRORS)
    sizes = {"cells": chosen.cells, "seed": chosen.seed}
    numbers = {**sizes, "errors": errors, "trainings": trainings, "seconds": watch.seconds()}
    common.write_results(
        chosen.output, numbers, lambda: draw(runs, chosen.cells), {"network": net}, written
    )
    return numbers


def _last(model: Tissue, name: str, values: np.ndarray) -> Function:
    """V at the end of a run."""
    v = Function(model.V, name=f"v, {name}")
    v.dat.data_wo[:] = values[-1, :, 0]
    return v


if __name__ == "__main__":
    main()
