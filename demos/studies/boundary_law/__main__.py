"""Recover the heat transfer coefficient h(T) of a boiling liquid from thermometers inside a fin.

``python -m demos.studies.boundary_law`` runs it; ``--help`` lists the options.

A nickel fin of 50 mm x 10 mm, hot at its root, stands in a liquid that boils on it.  Inside
``div(k grad T) = 0``, on its sides and its tip ``-k dT/dn = h(T) (T - T_liquid)``.  h depends on
the surface's temperature: a vapour film insulates the hot surface, bubbles cool it several times
faster, and at the cold tip there is only convection.  No thermometer can sit on the surface.

The fin is observed in four steady states with different temperatures of the root.  24 thermometers,
on the axis and 2 mm below the surface, are read in each state, as they are and with independent
noise N(0, s), s = 0.2 K.  The readings come from the true law, half as wide cells and cubic
elements.  The model is one half of the fin, with quadratic elements.

A network of one input on the boundary facets stands for h.  The misfit J is half the mean square
difference in units of s.  With noise, training ends by the discrepancy principle: when J is within
one standard deviation of 1/2, which is the expected misfit of the true law.
"""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from demos.studies import common
from demos.studies.common import relative_difference

LENGTH, HALF_HEIGHT = 0.050, 0.005  # m
CONDUCTIVITY = 70.0  # W/(m K)
LIQUID = 60.0  # degrees C
ROOTS = np.array([400.0, 550.0, 700.0, 850.0])  # degrees C
UNIT = 1000.0  # W/(m2 K), of the network's output
NOISE = 0.2  # K, of a reading that is averaged over a while
COOLED = (2, 4)  # the tip and the side
SOLVER = {"snes_linesearch_type": "bt", "snes_rtol": 1e-9, "snes_atol": 1e-9}
COLUMNS = {
    "law_error": ("h error", ".2%"),
    "largest_error": ("largest error", ".2%"),
    "loss": ("loss", ".3e"),
    "iterations": ("iterations", "d"),
    "seconds": ("seconds", ".1f"),
}


def truth(T):
    """The law that is to be recovered in W/(m2 K), for UFL and numpy."""
    power = np.exp if isinstance(T, np.ndarray) else exp
    film = 250 / (1 + power((600 - T) / 40))
    return 250 + film + 2100 * power(-(((T - 400) / 120) ** 2))


def thermometers() -> np.ndarray:
    """Their coordinates in m."""
    x = np.linspace(0.002, LENGTH - 0.002, 12)
    return np.array([(a, y) for y in (0.0, HALF_HEIGHT - 0.002) for a in x])


def half_fin(cells: int):
    """Its mesh; 1 is the root, 2 the tip, 3 the axis, 4 the side."""
    return RectangleMesh(5 * cells, cells, LENGTH, HALF_HEIGHT)


class Fin:
    """Half a fin; ``law`` gives h as a function of T."""

    def __init__(self, mesh, degree: int, law):
        self.mesh = mesh
        V = FunctionSpace(mesh, "P", degree)
        self.T, v = Function(V, name="temperature"), TestFunction(V)
        self.root = Constant(LIQUID)
        self.h = law(self.T)
        F = CONDUCTIVITY * inner(grad(self.T), grad(v)) * dx
        F += self.h * (self.T - LIQUID) * v * ds(COOLED)
        self.cooled = DirichletBC(V, 0, COOLED).nodes
        problem = femnn.NeuralVariationalProblem(F, self.T, DirichletBC(V, self.root, 1))
        self.solver = femnn.NeuralVariationalSolver(problem, solver_parameters=SOLVER)

    def states(self) -> Iterator[Function]:
        """The temperature for each temperature of the root, each from the one before."""
        self.T.assign(LIQUID)
        for root in ROOTS:
            self.root.assign(root)
            self.solver.solve()
            yield self.T

    def coldest(self) -> float:
        """The lowest temperature of the cooled surface."""
        found = self.T.dat.data_ro_with_halos[self.cooled]
        return self.mesh.comm.allreduce(found.min(initial=np.inf), MPI.MIN)


def observe(cells: int) -> tuple[np.ndarray, tuple[float, float]]:
    """What the thermometers read without noise, and the range of the surface's temperature."""
    fin = Fin(half_fin(2 * cells), 3, truth)
    stations = femnn.Stations(fin.mesh, thermometers())
    found = [(np.array(stations(T)), fin.coldest()) for T in fin.states()]
    readings, coldest = zip(*found, strict=True)
    return np.array(readings), (min(coldest), float(ROOTS.max()))


def recover(mesh, readings: np.ndarray, target: float | None, chosen) -> tuple:
    """Train a network for h; returns it, the outcome, the modelled readings and the last state."""
    net = femnn.MLP(
        *(1, 16, 16, 1),
        output="softplus",
        input_range=(LIQUID, ROOTS.max()),
        init="normal",
        seed=chosen.seed,
    )
    fin = Fin(mesh, 2, lambda T: UNIT * femnn.NeuralCoefficient(net, T, measure=ds))
    stations = femnn.Stations(mesh, thermometers())
    get_working_tape().clear_tape()
    continue_annotation()
    J = 0.0
    for T, values in zip(fin.states(), readings, strict=True):
        J += femnn.Observations(stations, values, NOISE * readings.size**0.5).misfit(T)
    Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
    pause_annotation()
    result = femnn.fit(Jhat, maxiter=chosen.iterations, target=target, options={"maxcor": 60})
    modelled = np.array([stations(T) for T in fin.states()])
    return net, result, modelled, fin.T


def draw(nets: dict, runs: dict, visited: tuple, readings: np.ndarray, modelled: dict):
    """The law and its visited range on the left, readings and the model's on the right."""
    figure, (law, fin) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    T = np.linspace(LIQUID, ROOTS.max() + 50, 500)
    law.plot(T, truth(T), "k", linewidth=3, alpha=0.5, label="truth")
    for (name, net), style in zip(nets.items(), ("C0", "C1--"), strict=True):
        label = f"learned, {name}: error {100 * runs[name]['law_error']:.2g} %"
        law.plot(T, UNIT * femnn.evaluate(net, T), style, label=label)
    law.axvspan(*visited, color="C2", alpha=0.12, zorder=0, label="range on the fin's surface")
    law.set(xlabel="surface temperature T (°C)", ylabel="h (W m⁻² K⁻¹)", ylim=(0, 3300))
    law.legend(loc="upper right")
    x, below = 1000 * thermometers()[:, 0], slice(len(readings[0]) // 2, None)
    for k, root in enumerate(ROOTS):
        fin.plot(x[below], readings[k, below], f"C{k}.", label=f"root at {root:.0f} °C")
        fin.plot(x[below], modelled[k, below], f"C{k}", linewidth=1)
    fin.set(xlabel="distance from the root (mm)", ylabel="T 2 mm below the surface (°C)")
    fin.set_title("noisy readings (dots), trained model (lines)", fontsize=10)
    fin.legend()
    return figure


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("boundary_law", __doc__, 5, 300, 0)
    chosen = parser.parse_args(argv)
    exact, visited = observe(chosen.cells)
    noise = np.random.default_rng(chosen.seed).normal(0, NOISE, exact.shape)
    mesh, T = half_fin(chosen.cells), np.linspace(*visited, 1000)
    nets, runs, fields = {}, {}, []
    for name, added in {"no noise": 0.0, f"noise {NOISE} K": noise}.items():
        target = 0.5 * (1 + (2 / exact.size) ** 0.5) if np.any(added) else None
        nets[name], result, modelled, state = recover(mesh, exact + added, target, chosen)
        law = UNIT * femnn.evaluate(nets[name], T)
        errors = {
            "law_error": relative_difference(law, truth(T)),
            "largest_error": float(np.max(abs(law / truth(T) - 1))),
        }
        runs[name] = {**errors, **common.numbers_of(result)}
        state.rename(f"temperature {name}")
        fields.append(state)
    sizes = {"cells": chosen.cells, "seed": chosen.seed, "readings": exact.size}
    numbers = {**sizes, "visited": list(map(float, visited)), "runs": runs}
    numbers["seconds"] = watch.seconds()
    lower, upper = visited
    common.show(f"h(T), relative error from {lower:.0f} to {upper:.0f} °C:", runs, COLUMNS)
    saved = dict(zip(("network", "network_noise"), nets.values(), strict=True))
    common.write_results(
        chosen.output,
        numbers,
        lambda: draw(nets, runs, visited, exact + noise, modelled),
        saved,
        fields,
    )
    return numbers


if __name__ == "__main__":
    main()
