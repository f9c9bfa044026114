"""Recover the heat transfer coefficient h(T) of a boiling liquid from thermometers inside a fin.

A steel fin of 50 mm x 10 mm, hot at its root, stands in a liquid that boils on it: ``div(k grad T)
= 0`` inside and ``-k dT/dn = h(T) (T - T_liquid)`` on its sides and its tip.  h depends on the
surface's temperature: a vapour film insulates the hot surface, bubbles cool it several times faster,
and at the cold tip there is only convection.  No thermometer can sit on the surface.

The fin is observed in steady states with different temperatures of the root.  20 thermometers, on
the axis and 2 mm below the surface, are read in each state with independent noise N(0, s), s = 1 K.
The readings come from the true law, half as wide cells and cubic elements.  The model is one half
of the fin, with quadratic elements.

A network of one input on the boundary facets stands for h.  The misfit J is half the mean square
difference in units of s.  With noise, training ends by the discrepancy principle: when J is within
one standard deviation of 1/2, which is the expected misfit of the true law.
"""

from collections.abc import Iterator

import common
import matplotlib.pyplot as plt
import numpy as np
from common import Stations, relative_difference, values_at
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn

LENGTH, HALF_HEIGHT = 0.050, 0.005  # m
CONDUCTIVITY = 70.0  # W/(m K)
LIQUID = 60.0  # degrees C
ROOTS = np.arange(250.0, 851.0, 100.0)  # degrees C
UNIT = 1000.0  # W/(m2 K), of the network's output
NOISE = 0.5  # K
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
    return np.array([(a, depth) for depth in (1e-6, HALF_HEIGHT - 0.002) for a in x])


class Fin:
    """Half a fin; ``law`` gives h as a function of T."""

    def __init__(self, cells: int, degree: int, law):
        self.mesh = RectangleMesh(5 * cells, cells, LENGTH, HALF_HEIGHT)
        V = FunctionSpace(self.mesh, "P", degree)
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
    fin = Fin(2 * cells, 3, truth)
    stations = Stations(fin.mesh, thermometers())
    found = [(stations.read(T), fin.coldest()) for T in fin.states()]
    readings, coldest = zip(*found, strict=True)
    return np.array(readings), (min(coldest), float(ROOTS.max()))


def recover(readings: np.ndarray, target: float | None, chosen) -> tuple:
    """Train a network for h; the fin ends in the last state."""
    net = femnn.MLP(
        *(1, 16, 16, 1), output="softplus", input_range=(LIQUID, ROOTS.max()), seed=chosen.seed
    )
    fin = Fin(chosen.cells, 2, lambda T: UNIT * femnn.NeuralCoefficient(net, T, measure=ds))
    stations = Stations(fin.mesh, thermometers())
    get_working_tape().clear_tape()
    continue_annotation()
    J = 0.0
    for T, values in zip(fin.states(), readings, strict=True):
        difference = stations.of(T) - stations.function(values)
        J += femnn.assemble(0.5 / (NOISE**2 * readings.size) * difference**2 * dx)
    Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
    pause_annotation()
    result = femnn.fit(Jhat, maxiter=chosen.iterations, target=target, options={"maxcor": 60})
    return net, fin, result, np.array([stations.read(T) for T in fin.states()])
