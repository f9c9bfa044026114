"""Columns of a lake: A dT/dt = d/dz (A K dT/dz) + light, with K a torch module."""

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from ufl import conditional

import femnn
from demos.studies.common import recording, side_by_side
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .data import Lake
from .laws import LEAST, Law

DAY = 86400.0  # s
G_OVER_RHO = 9.81 / 1000
HEAT = 4.186e6  # J/(m3 K), of water
REFLECTED = 0.06
OVERTURNING = 1e-2  # m2/s, where the water is not stable
APART = 1000.0  # m between columns, so that a node's coordinate tells its column
LUMPED = dx(scheme="KMV", degree=1)  # values at nodes: no overshoots where K is small
PARAMETERS = {
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


def expansion(T):
    """The derivative of fresh water's density, in kg/(m3 K), T in degrees Celsius.

    N. P. Fofonoff, R. C. Millard: Algorithms for computation of fundamental properties of seawater,
    UNESCO technical papers in marine science 44 (1983).
    """
    terms = (3.268166e-8, -4.480332e-6, 3.005055e-4, -1.819058e-2, 6.793952e-2)
    slope = 0.0
    for term in terms:
        slope = slope * T + term
    return slope


class Columns:
    """Several parts of a record side by side, each in a column of its own in one mesh.

    Temperature at the first thermometer is given, no heat leaves at the bottom.  Steps are days,
    with the diffusivity at the state of the day before, so that each is one linear solve.  Where
    the water is not stable it overturns.

    Parameters
    ----------
    lake
        The record.
    law
        The diffusivity.
    rows
        For each column the first day, from whose measured profile it runs, and the last.
    every
        Days from one observation to the next.
    spacing
        Of the nodes, in m.

    Attributes
    ----------
    weights : femnn.Weights
        The law's.
    data : femnn.Observations
        What was measured below the first thermometer.
    noise : Constant
        Standard deviation of what the model cannot say of the data, in K.
    """

    def __init__(
        self,
        lake: Lake,
        law: Law,
        rows: list[tuple[int, int]],
        every: int = 1,
        spacing: float = 1.0,
    ):
        self.lake, self.law, self.rows = lake, law, rows
        self.n_steps = max(last - first for first, last in rows)
        top, bottom = lake.depths[0], lake.bathymetry[-1, 0]
        x = spacing * np.arange(np.ceil(bottom / spacing))
        x = np.r_[top, x[(x > top + 0.3 * spacing) & (x < bottom - 0.3 * spacing)], bottom]
        mesh = side_by_side(x - top, len(rows), APART)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        x = Function(V).interpolate(SpatialCoordinate(mesh)[0]).dat.data_ro
        self.column = np.floor(x / APART + 0.5).astype(int)
        self.depth = x - APART * self.column + top
        self.T, self.last, self.top = Function(V, name="temperature"), Function(V), Function(V)
        self.forcing = Function(VectorFunctionSpace(mesh, "CG", 1, dim=1 + len(law.winds)))
        self.z, self.A = Function(V), Function(V)
        self.z.dat.data[:] = self.depth
        self.A.dat.data[:] = lake.area(self.depth) / lake.area(top)
        self.solver = self._solver()
        self.data = self._observations(every)

    def _solver(self) -> NeuralVariationalSolver:
        V, A, T, last = self.V, self.A, TrialFunction(self.V), self.last
        v, forcing = TestFunction(V), self.forcing
        N2 = G_OVER_RHO * expansion(last) * last.dx(0)
        stability = ln(max_value(N2, 10.0**LEAST)) / np.log(10)
        winds = [forcing[i + 1] for i in range(len(self.law.winds))]
        self.K = NeuralCoefficient(self.law, self.z, stability, *winds, degree=1)
        self.weights = self.K.weights
        K = DAY * conditional(gt(N2, 0), self.K, OVERTURNING)
        self.flux = lambda T, v: A * K * T.dx(0) * v.dx(0) * dx
        self.stored = lambda T, v: A * (T - last) * v * LUMPED
        k = self.lake.extinction
        dimmed = k * exp(-k * self.z) * (1 - REFLECTED) * DAY / HEAT
        self.lit = lambda v: A * dimmed * forcing[0] * v * dx(degree=6)
        F = self.stored(T, v) + self.flux(T, v) - self.lit(v)
        top = DirichletBC(V, self.top, 1)
        problem = NeuralVariationalProblem.linear(lhs(F), rhs(F), self.T, top)
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _observations(self, every: int) -> femnn.Observations:
        """What was measured below the first thermometer; gaps where a column has ended."""
        depths, n = self.lake.depths, len(self.rows)
        points = np.concatenate([c * APART + depths[1:] - depths[0] for c in range(n)])
        names = [f"{c}: {d:g} m" for c in range(n) for d in depths[1:]]
        values = np.full((self.n_steps + 1, len(self.rows), len(depths) - 1), np.nan)
        for c, (first, last) in enumerate(self.rows):
            values[: last - first + 1, c] = self.lake.measured[first : last + 1, 1:]
        values[0] = np.nan
        left_out = np.arange(len(values)) % every != 0
        values[left_out] = np.nan
        self.noise = Constant(0.1, name="noise")
        stations = femnn.Stations(self.V.mesh(), points, names)
        times = np.arange(len(values), dtype=float)
        values = values.reshape(len(values), -1)
        return femnn.Observations(stations, values, scale=self.noise, times=times, units="deg C")

    def _on_columns(self, table: np.ndarray, step: int) -> np.ndarray:
        """A row of the record for each node: that of the column's day, or of its last."""
        days = [min(first + step, last) for first, last in self.rows]
        return table[days][self.column]

    def _profile(self) -> Function:
        """The measured profiles of the first days, linear between thermometers."""
        profile = Function(self.V)
        for c, (first, _) in enumerate(self.rows):
            here = self.column == c
            filled = self.lake.filled[first]
            profile.dat.data[here] = np.interp(self.depth[here], self.lake.depths, filled)
        return profile

    def march(self, *observers) -> None:
        """All steps from the measured profiles of the first days; observers take (T, time).

        Records go on at the last day for columns that end before others, and count no more.
        """
        lake = self.lake
        forcing = np.column_stack([lake.light, *(lake.wind_of(n) for n in self.law.winds)])
        self.T.assign(self._profile())
        self.last.assign(self.T)
        for observe in observers:
            observe(self.T, 0.0)
        for step in range(1, self.n_steps + 1):
            self.top.dat.data[:] = self._on_columns(lake.filled[:, 0], step)
            values = self._on_columns(forcing, step)
            self.forcing.dat.data[:] = values.reshape(self.forcing.dat.data_ro.shape)
            self.solver.solve()
            for observe in observers:
                observe(self.T, float(step))
            self.last.assign(self.T)

    def simulate(self, *observers) -> np.ndarray:
        """The model where and when something was measured, as ``data.values``; not recorded."""
        with stop_annotating():
            observe = self.data.start()
            self.march(observe, *observers)
        return observe.model

    def record(self, prior: femnn.GaussianPrior | None = None) -> ReducedFunctional:
        """Minus the logarithm of the likelihood, and with a prior of the posterior density."""
        with recording():
            observe = self.data.start()
            self.march(observe)
            J = observe.misfit()
            if prior is not None:
                J += prior.energy()
            Jhat = ReducedFunctional(J, Control(self.weights))
        Jhat.optimize_tape()
        return Jhat

    def heat_budget(self) -> dict[str, float]:
        """Heat below the first node over all steps and columns, MJ per m2 of the top's area.

        What is stored is the light that comes in and the heat that flows in from above; what is
        left of the difference, of one step at most, is the solver's.
        """
        inside, n = Function(self.V).assign(1.0), len(self.rows)
        DirichletBC(self.V, 0, 1).apply(inside)
        forms = (self.stored(self.T, inside), self.lit(inside), -self.flux(self.T, inside))
        found = []

        def observe(T: Function, time: float) -> None:
            if time > 0:
                found.append([femnn.assemble(form) for form in forms])

        self.simulate(observe)
        heat = np.array(found) * HEAT / 1e6 / n
        left = np.abs(heat[:, 0] - heat[:, 1] - heat[:, 2]).max()
        sums = np.abs(heat).sum(axis=0)
        names = ("stored and given back", "light", "through the top, in and out")
        return dict(zip(names, map(float, sums), strict=True)) | {"left in a step": float(left)}

    def errors(self) -> np.ndarray:
        """Modelled minus measured, shape (times, columns, depths below the first)."""
        difference = self.simulate() - self.data.values
        return difference.reshape(len(difference), len(self.rows), -1)
