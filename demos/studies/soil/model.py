"""Columns of freezing soil: d/dt H(T, z) = d/dz (k(T, z) dT/dz), with the laws as torch modules."""

from collections.abc import Callable, Sequence

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies.common import recording, side_by_side
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .data import Part, Record
from .laws import HeatStep, Laws, Water

HEAT = 2.4  # MJ/(m3 K), of the usual soil
DEGREE = 2  # two Gauss points in each cell
APART = 100.0  # m between columns, so that a node's coordinate tells its column
PARAMETERS = {
    "snes_linesearch_type": "bt",
    "snes_rtol": 1e-7,
    "snes_atol": 1e-9,
    "snes_max_it": 100,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


class Errors:
    """What the errors of thermometers are taken for: normal, with a memory of some days.

    Attributes
    ----------
    std : numpy.ndarray
        Of each inner thermometer, in K, shape (depths,).
    memory : numpy.ndarray
        The time after which each one's are correlated by 1 / e, in days.
    """

    def __init__(self, n_depths: int, std: float = 0.2, memory: float = 10.0):
        self.std, self.memory = np.full(n_depths, std), np.full(n_depths, memory)


class Columns:
    """Several runs side by side, each in a column of its own in one mesh.

    A step costs nearly the same for one column as for eight, and the columns do not touch
    each other.  The highest and the lowest thermometer are boundary values; cells end at the
    thermometers and halfway between them.  Steps are days, by implicit Euler.

    Parameters
    ----------
    record
        What was measured.
    laws
        The laws.
    parts
        What of the record each column is of.
    every
        Days from one observation to the next.
    errors
        Of the thermometers.

    Attributes
    ----------
    weights : femnn.Weights
        The laws'.
    log_w : Constant
        The logarithms of the winters' water over that of the usual one.
    data : femnn.Observations
        What was measured between the boundaries.
    noise : Constant
        A factor of the errors' sizes, which the evidence finds.
    """

    def __init__(
        self,
        record: Record,
        laws: Laws,
        parts: Sequence[Part],
        every: int = 1,
        errors: Errors | None = None,
    ):
        self.record, self.laws, self.parts, self.every = record, laws, list(parts), every
        self.starts = np.array([part.start for part in parts])
        self.n_days = max(part.last - part.start for part in parts)
        depths = record.depths
        x = np.sort(np.concatenate([depths, (depths[1:] + depths[:-1]) / 2]))
        mesh = side_by_side(x, len(parts), APART)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        x = Function(V).interpolate(SpatialCoordinate(mesh)[0]).dat.data_ro
        self.column = np.floor(x / APART).astype(int)
        self.depth = x - APART * self.column
        self.T, self.last = Function(V, name="temperature"), Function(V)
        self.ends, self.water = Function(V), Function(V).assign(1.0)
        winters = np.array([part.winter for part in parts])
        self.log_w = Constant(np.zeros(winters.max() + 1), name="log_w")
        self.of_winter = Water(winters[self.column])
        self.solver = self._solver()
        self.noise = Constant(1.0, name="noise")
        self.take(errors or Errors(len(depths) - 2))

    def _solver(self) -> NeuralVariationalSolver:
        T, v, z = self.T, TestFunction(self.V), Function(self.V)
        z.dat.data[:] = self.depth
        law = NeuralCoefficient(HeatStep(self.laws), T, self.last, z, degree=DEGREE)
        self.weights = law.weights
        self.stored = (
            lambda v: law[0] * v * dx,
            lambda v: self.water * law[1] * v * dx,
        )
        self.flux = lambda v: law[2] * T.dx(0) * v.dx(0) * dx
        F = sum(part(v) for part in self.stored) + self.flux(v)
        problem = NeuralVariationalProblem(F, T, DirichletBC(self.V, self.ends, "on_boundary"))
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def take(self, errors: Errors) -> None:
        """Compare with the data as errors say."""
        self.errors, depths, n = errors, self.record.depths, len(self.starts)
        points = np.concatenate([c * APART + depths[1:-1] for c in range(n)])
        names = [f"{c}: {100 * d:g} cm" for c in range(n) for d in depths[1:-1]]
        times = np.arange(self.every, self.n_days + 1, self.every)
        rows = self.starts + times[:, None]
        counts = [
            [p.first <= r <= p.last for p, r in zip(self.parts, row, strict=True)] for row in rows
        ]
        within = np.minimum(rows, len(self.record) - 1)
        values = np.where(np.array(counts)[..., None], self.record.measured[within, 1:-1], np.nan)
        self.data = femnn.Observations(
            femnn.Stations(self.V.mesh(), points, names),
            values.reshape(len(times), -1),
            np.tile(errors.std, n),
            times.astype(float),
            scale=self.noise,
            correlation=np.tile(errors.memory, n),
            units="deg C",
        )

    def _profile(self) -> Function:
        """The measured profiles of the first days, linear between thermometers."""
        profile = Function(self.V)
        for c, start in enumerate(self.starts):
            here = self.column == c
            filled = self.record.filled[start]
            profile.dat.data[here] = np.interp(self.depth[here], self.record.depths, filled)
        return profile

    def march(self, *observers) -> None:
        """All steps from the measured profiles of the first days; observers take (T, day)."""
        ends = self.record.filled[:, [0, -1]]
        lower = (self.depth > self.record.depths.mean()).astype(int)
        self.water.assign(femnn.apply(self.of_winter, self.log_w, into=self.V))
        self.T.assign(self._profile())
        self.last.assign(self.T)
        for day in range(1, self.n_days + 1):
            rows = np.minimum(self.starts + day, len(ends) - 1)
            self.ends.dat.data[:] = ends[rows[self.column], lower]
            self.solver.solve()
            for observe in observers:
                observe(self.T, float(day))
            self.last.assign(self.T)

    def simulate(self, *observers) -> np.ndarray:
        """Temperatures where and when something was measured, gaps too; not recorded.

        Shape (days, columns, depths between).
        """
        at, found = self.data.at, []
        with stop_annotating():
            self.march(self._thinned(lambda T, day: found.append(np.asarray(at(T)))), *observers)
        return np.reshape(found, self.shape)

    def _thinned(self, observe: Callable) -> Callable:
        """An observer of those days only of which there are data."""
        return lambda T, day: observe(T, day) if day % self.every == 0 else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the data: times, columns, depths between."""
        return len(self.data.times), len(self.starts), len(self.record.depths) - 2

    @property
    def measured(self) -> np.ndarray:
        """The data, of that shape."""
        return self.data.values.reshape(self.shape)

    def record_density(self, *priors: femnn.GaussianPrior) -> ReducedFunctional:
        """Minus the logarithm of the posterior density of what the priors are of."""
        with recording():
            observe = self.data.start()
            self.march(self._thinned(observe))
            J = observe.misfit()
            for prior in priors:
                J += prior.energy()
            Jhat = ReducedFunctional(J, [Control(prior.control) for prior in priors])
        Jhat.optimize_tape()
        return Jhat

    def heat_budget(self) -> dict[str, float]:
        """Heat between the outermost nodes over all steps, MJ/m2, means of the columns.

        What is stored is what flows in through the ends; what is left of the difference, of one
        step at most, is the solver's.
        """
        inside, n = Function(self.V).assign(1.0), len(self.starts)
        DirichletBC(self.V, 0, "on_boundary").apply(inside)
        forms = (*(part(inside) for part in self.stored), -self.flux(inside))
        found = []

        def observe(T: Function, day: float) -> None:
            found.append([femnn.assemble(form) for form in forms])

        self.simulate(observe)
        heat = np.array(found) * HEAT / n
        left = np.abs(heat[:, 0] + heat[:, 1] - heat[:, 2]).max()
        sums = np.abs(heat).sum(axis=0)
        names = ("sensible, in and out", "latent, in and out", "through the ends, net")
        return dict(zip(names, map(float, sums), strict=True)) | {"left in a step": float(left)}
