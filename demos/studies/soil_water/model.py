"""Richards' equation in a column that dries from above, with its two laws as a torch module.

d theta(h) / dt = d/dz (K(h) (dh/dz - 1)), z downward: -K (dh/dz - 1) is the flow down.  At the top
the evaporation leaves, at the bottom nothing does.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies.common import recording
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .data import Evaporation
from .laws import Laws, WaterContent

DEGREE = 2  # of quadrature: two Gauss points in each cell
TOP, BOTTOM = 1, 2  # of an interval
WATER_ERROR = 0.002  # of the mean water content at the end, which is from a balance
PARAMETERS = {
    "snes_linesearch_type": "bt",
    "snes_rtol": 1e-10,
    "snes_atol": 1e-12,
    "snes_max_it": 40,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


class Column:
    """The experiment's column, in implicit steps that conserve water.

    Each step solves for the head with theta(h) - theta(h before) for what is stored, so that
    what the column loses is what evaporates, to the solver's tolerance.  Data are log10(-h).

    Parameters
    ----------
    experiment
        What was measured, with the evaporation.
    laws
        theta(h) and K(h).
    fitted
        The depths whose heads are data of the misfit, cm.
    judged
        Others that are compared.
    cells, substeps
        Of the column; of each interval between readings.

    Attributes
    ----------
    weights : femnn.Weights
        The laws'.
    noise : Constant
        Standard deviation of what the model cannot say of log10(-h).
    """

    def __init__(
        self,
        experiment: Evaporation,
        laws: Laws,
        fitted: tuple[float, ...],
        judged: tuple[float, ...] = (),
        cells: int = 20,
        substeps: int = 2,
    ):
        self.experiment, self.laws, self.substeps = experiment, laws, substeps
        mesh = IntervalMesh(cells, experiment.height)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        self.h, self.last = Function(V, name="head"), Function(V)
        self.pace, self.evaporation = Constant(1.0), Constant(0.0)
        self.solver = self._solver()
        self.content = NeuralCoefficient(WaterContent(laws), self.h, degree=DEGREE)
        self.noise = Constant(0.01, name="noise")
        self.data = self._readings(fitted, scale=self.noise)
        self.judged = self._readings(judged, std=1.0) if judged else None
        column = femnn.Averages(mesh, {"column": "everywhere"})
        mean = experiment.mean_at_end
        self.water = femnn.Observations(column, [mean], WATER_ERROR, name="water content")

    def _solver(self) -> NeuralVariationalSolver:
        h, v = self.h, TestFunction(self.V)
        self.law = law = NeuralCoefficient(self.laws, h, self.last, degree=DEGREE)
        self.weights = law.weights
        self.stored = lambda v: law[0] * v * dx
        self.moved = lambda v: law[1] * (h.dx(0) - 1) * v.dx(0) * dx
        F = self.pace * self.stored(v) + self.moved(v) + self.evaporation * v * ds(TOP)
        problem = NeuralVariationalProblem(F, h)
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _readings(self, depths: tuple[float, ...], **errors) -> femnn.Observations:
        known = self.experiment
        columns = known.columns(depths)
        at = femnn.Stations(self.V.mesh(), known.depths[columns], [f"{d:g} cm" for d in depths])
        values = np.log10(-known.heads[:, columns])
        return femnn.Observations(at, values, times=known.times, name="log10 suction", **errors)

    def march(self, *observers) -> None:
        """All steps from the first profile, linear in depth; observers take (h, time)."""
        known = self.experiment
        top, bottom = known.at_start
        z = SpatialCoordinate(self.V.mesh())[0]
        self.h.interpolate(top + (bottom - top) * z / known.height)
        self.last.assign(self.h)
        before = 0.0
        for until, flux in zip(known.times, known.flux, strict=True):
            step = (until - before) / self.substeps
            self.pace.assign(1 / step)
            self.evaporation.assign(flux)
            for i in range(self.substeps):
                self.solver.solve()
                for observe in observers:
                    observe(self.h, before + (i + 1) * step)
                self.last.assign(self.h)
            before = float(until)

    def simulate(self, depths: np.ndarray | None = None) -> np.ndarray:
        """Heads at depths, all measured ones by default, at the measured times; not recorded."""
        at = femnn.Stations(self.V.mesh(), self.experiment.depths if depths is None else depths)
        found: list[np.ndarray] = []
        with stop_annotating():
            self.march(lambda h, time: found.append(np.array(at(h).vector)))
        return np.array(found[self.substeps - 1 :: self.substeps]).reshape(-1, len(at.names))

    def record(self, prior: femnn.GaussianPrior | None = None) -> ReducedFunctional:
        """Minus the logarithm of the likelihood, and with a prior of the posterior density.

        ``to_judge`` has the differences at the judged depths, log10(-h) modelled minus measured.
        """
        observed = [d.start() for d in (self.data, self.judged) if d is not None]

        def observe(h: Function, time: float) -> None:
            for each in observed:
                each(ln(-h) / np.log(10), time)

        with recording():
            self.march(observe)
            J = observed[0].misfit() + self.water.misfit(self.content)
            if prior is not None:
                J += prior.energy()
            for each in observed[1:]:
                each.misfit()
                self.to_judge = each.residuals
            return ReducedFunctional(J, Control(self.weights))

    def water_budget(self) -> dict[str, float]:
        """Water in cm over all steps: what the column loses is what evaporates from it.

        What is left of the difference, of one step at most, is the solver's.
        """
        lost: list[float] = []
        one = Function(self.V).assign(1.0)
        with stop_annotating():
            self.march(lambda h, time: lost.append(-femnn.assemble(self.stored(one))))
        known = self.experiment
        steps = np.repeat(np.diff(known.times, prepend=0.0) / self.substeps, self.substeps)
        gone = steps * np.repeat(known.flux, self.substeps)
        with stop_annotating():
            left = femnn.assemble(self.content * dx(self.V.mesh()))
        return {
            "lost": float(np.sum(lost)),
            "evaporated": float(gone.sum()),
            "left in a step": float(np.abs(np.array(lost) - gone).max()),
            "mean content at the end": float(left / known.height),
        }
