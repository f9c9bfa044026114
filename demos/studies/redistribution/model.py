"""A horizontal column that is wetted at its inlet, and then shut: a law with memory in the flow.

d theta/dt = -d/dx (K(theta) d psi/dx), psi = psi(theta, s), with theta and the state s at nodes,
which are the points of the lumped masses; the law of the flow takes the values at a cell's ends.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies.common import recording, side_by_side
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .data import Experiment
from .laws import Flow, Laws, Memory

INLET = 1  # the first end of the column
LAYER = 1e4  # cm/min, conductance of the layer at the inlet
SLOW = 40.0, 1.3  # cm from which cells grow, and by which factor: no water comes there
LUMPED = dx(scheme="KMV", degree=1)
MIDDLE = 1  # the degree of the rule whose point is a cell's middle
PARAMETERS = {
    "snes_linesearch_type": "bt",
    "snes_rtol": 1e-14,
    "snes_atol": 1e-11,
    "snes_max_it": 60,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}
Observer = Callable[[Function, float], None]


@dataclass
class Sizes:
    """Of the model: cells in cm, steps while the inlet is open, and after."""

    cell: float = 0.5
    wetting: int = 50
    after: int = 20

    def nodes(self, length: float) -> np.ndarray:
        """Even cells where there is water, growing ones beyond."""
        end, growth = SLOW
        x, size = [*np.arange(0.0, end + 0.5 * self.cell, self.cell)], self.cell
        while x[-1] + size * growth < length:
            size *= growth
            x.append(x[-1] + size)
        return np.array([*x[:-1], length])

    def times(self, known: Experiment, end: float) -> np.ndarray:
        """Even steps in the root of the time while it is wetted, then growing as its cube."""
        wetting = known.shut * (np.arange(1, self.wetting + 1) / self.wetting) ** 2
        after = (end - known.shut) * (np.arange(1, self.after + 1) / self.after) ** 3
        return np.concatenate([wetting, known.shut + after])


class Column:
    """The experiment's column, in implicit steps that conserve water.

    Parameters
    ----------
    experiment
        What was measured.
    laws
        Of the soil.
    fitted
        Which readings of the redistribution are data, those of the infiltration always are; a
        mask of all readings.
    sizes
        Of cells and steps.

    Attributes
    ----------
    weights : femnn.Weights
        The laws'.
    inlet : Constant
        The water content at the inlet while it is open.
    noise : tuple of Constant
        Standard deviations of what the model cannot say of the water content, while it is wetted
        and after.
    """

    def __init__(
        self,
        experiment: Experiment,
        laws: Laws,
        fitted: np.ndarray,
        sizes: Sizes | None = None,
    ):
        self.experiment, self.laws, self.sizes = experiment, laws, sizes or Sizes()
        nodes = self.sizes.nodes(experiment.length)
        mesh = side_by_side(nodes, 1, 2 * experiment.length)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        self.theta, self.last = Function(V, name="water content"), Function(V)
        self.s, self.before = Function(V, name="memory"), Function(V)
        self.x = Function(V).interpolate(SpatialCoordinate(mesh)[0]).dat.data_ro.copy()
        self.pace, self.inlet = Constant(1.0), Constant(experiment.inlet, name="inlet")
        self.layer = Constant(0.0)
        self.solver = self._solver()
        self.remembered = self._memory()
        self.noise = Constant(0.03, name="wetting"), Constant(0.01, name="redistribution")
        after = experiment.after
        self.data = [
            self._readings(~after, scale=self.noise[0]),
            self._readings(after & fitted, scale=self.noise[1]),
        ]
        judged = after & ~fitted
        self.judged = self._readings(judged, std=1.0) if judged.any() else None

    @property
    def n_steps(self) -> int:
        """Of a run."""
        return self.sizes.wetting + self.sizes.after

    def _solver(self) -> NeuralVariationalSolver:
        """Of a step; the content at the inlet is held by a layer that hardly resists.

        Its value is a control, which Gauss-Newton takes in a form, but not as a boundary value.
        """
        theta, last, before = self.theta, self.last, self.before
        v, length = TestFunction(self.V), CellVolume(self.V.mesh())
        ends = [f + side * length / 2 * f.dx(0) for f in (theta, last, before) for side in (-1, 1)]
        law = NeuralCoefficient(Flow(self.laws), *ends, degree=MIDDLE)
        self.weights = law.weights
        self.stored = lambda v: (theta - last) * v * LUMPED
        self.inflow = lambda v: self.layer * (self.inlet - theta) * v * ds(INLET)
        between = -law / length * v.dx(0) * dx
        F = self.pace * self.stored(v) + between - self.inflow(v)
        problem = NeuralVariationalProblem(F, theta)
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _memory(self) -> NeuralCoefficient:
        """The state at the nodes after a step."""
        self.solved = Function(self.V)
        states = self.solved, self.last, self.before
        return NeuralCoefficient(Memory(self.laws), *states, space=self.V)

    def _readings(self, which: np.ndarray, **errors) -> femnn.Observations:
        known = self.experiment
        times, values = known.table(which)
        at = femnn.Stations(self.V.mesh(), known.places, [f"{x:g} cm" for x in known.places])
        return femnn.Observations(at, values, times=times, name="water content", **errors)

    def march(self, *observers: Observer, end: float | None = None) -> None:
        """All steps from the dry column; observers take (theta, time)."""
        known, before = self.experiment, 0.0
        self.theta.assign(known.at_start)
        self.last.assign(self.theta)
        self.s.assign(0.0)
        self.before.assign(self.s)
        for observe in observers:
            observe(self.theta, 0.0)
        for until in self.sizes.times(known, end or float(known.time.max())):
            self.pace.assign(1 / (until - before))
            self.layer.assign(LAYER if until < known.shut * (1 + 1e-9) else 0.0)
            self.step()
            for observe in observers:
                observe(self.theta, float(until))
            self.last.assign(self.theta)
            self.before.assign(self.s)
            before = until

    def step(self) -> None:
        """One step of the water content, then of the state."""
        self.solver.solve()
        if self.laws.remembers:
            self.solved.assign(self.theta)
            self.s.assign(self.remembered.update())

    def simulate(self, *observers: Observer) -> np.ndarray:
        """The water content at each reading; not recorded."""
        known = self.experiment
        every = np.ones(len(known.time), dtype=bool)
        observe = self._readings(every, std=1.0).start()
        with stop_annotating():
            self.march(observe, *observers)
        return observe.model[known.cells(every)]

    def record(self, *priors: femnn.GaussianPrior) -> ReducedFunctional:
        """Minus the logarithm of the likelihood, and with priors of the posterior density.

        Of the laws' weights and the content at the inlet.
        ``to_judge`` has the differences at the judged readings, modelled minus measured.
        """
        with recording():
            observed = [d.start() for d in (*self.data, self.judged) if d is not None]
            self.march(*observed)
            J = observed[0].misfit() + observed[1].misfit()
            for prior in priors:
                J += prior.energy()
            for each in observed[2:]:
                each.misfit()
                self.to_judge = each.residuals
            return ReducedFunctional(J, [Control(self.weights), Control(self.inlet)])

    def water_budget(self) -> dict[str, float]:
        """Water in cm: what came in and what the column has gained, while open and after.

        What is left of the difference in a step, of one at most, is the solver's.
        """
        one = Function(self.V).assign(1.0)
        found: list[list[float]] = []

        def observe(theta: Function, time: float) -> None:
            if time > 0:
                came = femnn.assemble(self.inflow(one)) / float(self.pace)
                found.append([femnn.assemble(self.stored(one)), came])

        self.simulate(observe)
        gained, came = np.array(found).T
        n = self.sizes.wetting
        return {
            "came in": float(came.sum()),
            "gained": float(gained[:n].sum()),
            "gained after": float(gained[n:].sum()),
            "left in a step": float(np.abs(gained - came).max()),
        }
