"""Columns of soil side by side: C dT/dt = d/dz (C D dT/dz) between two thermometers."""

from collections.abc import Sequence

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from demos.studies.common import recording, side_by_side
from femnn import NeuralVariationalProblem, NeuralVariationalSolver

from .data import Record
from .laws import Law, upper_share

DAY = 86400.0  # s
HEAT = 2.2e6  # J/(m3 K), of soil; the fit knows D alone
APART = 1000.0  # m between columns, so that a node's coordinate tells its column
SPACING = 0.05  # m, of the nodes
LUMPED = dx(scheme="KMV", degree=1)
PARAMETERS = {
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


class Columns:
    """Soil below some stations, a year from the measured profile of the first day.

    Temperatures at the highest and the lowest thermometer are given.  Steps are days.

    Parameters
    ----------
    record
        The stations' records.
    law
        The diffusivity.
    stations
        Which of them.
    every
        Days from one observation to the next.
    noise
        Standard deviation of what the model cannot say of the data, in K; a Constant is estimated.
    comm
        The ranks; columns are few, so one is enough.

    Attributes
    ----------
    data : femnn.Observations
        What was measured between.
    """

    def __init__(
        self,
        record: Record,
        law: Law,
        stations: Sequence[int],
        every: int = 1,
        noise: float | Constant = 1.0,
        comm: MPI.Comm = MPI.COMM_SELF,
    ):
        self.record, self.law, self.stations = record, law, list(stations)
        self.n_steps = len(record.days) - 1
        top, bottom = record.depths[0], record.depths[-1]
        x = np.linspace(0, bottom - top, round((bottom - top) / SPACING) + 1)
        mesh = side_by_side(x, len(self.stations), APART, comm)
        self.V, self.Q = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "DG", 0)
        self.column, self.depth = self._where(self.V)
        self.T, self.last, self.ends = (Function(self.V) for _ in range(3))
        self.D = Function(self.Q, name="diffusivity")
        self.known = self._known()
        self.solver = self._solver()
        self.noise = noise if isinstance(noise, Constant) else Constant(noise)
        self.data = self._observations(every)

    def _where(self, space) -> tuple[np.ndarray, np.ndarray]:
        """The column and the depth in m of each degree of freedom."""
        x = Function(space).interpolate(SpatialCoordinate(space.mesh())[0]).dat.data_ro
        column = np.floor(x / APART + 0.5).astype(int)
        return column, x - APART * column + self.record.depths[0]

    def _known(self) -> list[torch.Tensor]:
        """What a law takes at each cell: the station, the share of the upper knot, the water."""
        column, depth = self._where(self.Q)
        water = np.empty(len(depth))
        for c, station in enumerate(self.stations):
            here = column == c
            levels = self.record.depths, self.record.water[station]
            water[here] = np.interp(depth[here], *levels)
        station = np.array(self.stations)[column]
        return [torch.from_numpy(x) for x in (station, upper_share(depth), water)]

    def _solver(self) -> NeuralVariationalSolver:
        T, v = TrialFunction(self.V), TestFunction(self.V)
        self.flux = lambda T, v: DAY * self.D * T.dx(0) * v.dx(0) * dx
        self.stored = lambda T, v: (T - self.last) * v * LUMPED
        F = self.stored(T, v) + self.flux(T, v)
        ends = DirichletBC(self.V, self.ends, (1, 2))
        problem = NeuralVariationalProblem.linear(lhs(F), rhs(F), self.T, ends)
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _observations(self, every: int) -> femnn.Observations:
        """What was measured between the boundaries, after the first day."""
        record, between = self.record, self.record.depths[1:-1]
        n = len(self.stations)
        points = np.concatenate([c * APART + between - record.depths[0] for c in range(n)])
        names = [f"{record.names[s]}: {100 * d:g} cm" for s in self.stations for d in between]
        values = record.measured[:, self.stations, 1:-1].copy()
        values[0] = np.nan
        values[np.arange(len(values)) % every != 0] = np.nan
        at = femnn.Stations(self.V.mesh(), points, names)
        times = np.arange(len(values), dtype=float)
        values = values.reshape(len(values), -1)
        return femnn.Observations(at, values, scale=self.noise, times=times, units="K")

    def _profile(self) -> Function:
        """The measured profiles of the first day, linear between thermometers."""
        profile = Function(self.V)
        for c, station in enumerate(self.stations):
            here = self.column == c
            levels = self.record.depths, self.record.filled[0, station]
            profile.dat.data[here] = np.interp(self.depth[here], *levels)
        return profile

    def march(self, *observers) -> None:
        """A year from the measured profiles on; observers take (T, time in days)."""
        self.D.assign(femnn.apply(self.law, *self.known, into=self.Q))
        ends = self.record.filled[:, self.stations][..., [0, -1]]
        lower = (self.depth > self.record.depths.mean()).astype(int)
        self.T.assign(self._profile())
        self.last.assign(self.T)
        for observe in observers:
            observe(self.T, 0.0)
        for step in range(1, self.n_steps + 1):
            self.ends.dat.data[:] = ends[step, self.column, lower]
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

    def misfit(self) -> AdjFloat:
        """Minus the logarithm of the likelihood, recorded."""
        observe = self.data.start()
        self.march(observe)
        return observe.misfit()

    def errors(self) -> np.ndarray:
        """Modelled minus measured, shape (days, stations, depths between)."""
        return self.by_station(self.simulate() - self.data.values)

    def by_station(self, values: np.ndarray) -> np.ndarray:
        """Values of all data, shape (days, stations, depths between)."""
        return values.reshape(len(values), len(self.stations), -1)

    def heat_budget(self) -> dict[str, float]:
        """Heat between the outermost nodes over all steps, MJ/m2, means of the columns.

        What is stored is what flows in through the ends; what is left of the difference, of one
        step at most, is the solver's.
        """
        inside, n = Function(self.V).assign(1.0), len(self.stations)
        DirichletBC(self.V, 0, (1, 2)).apply(inside)
        forms = (self.stored(self.T, inside), -self.flux(self.T, inside))
        found = []

        def observe(T: Function, time: float) -> None:
            if time > 0:
                found.append([femnn.assemble(form) for form in forms])

        self.simulate(observe)
        heat = np.array(found) * HEAT / 1e6 / n
        left = np.abs(heat[:, 0] - heat[:, 1]).max()
        stored, through = (float(x) for x in np.abs(heat).sum(axis=0))
        return {
            "stored and given back": stored,
            "through the ends, net": through,
            "left in a step": float(left),
        }


def spread(
    record: Record,
    law: Law,
    stations: Sequence[int],
    every: int = 1,
    noise: float | Constant = 1.0,
    prior: femnn.GaussianPrior | None = None,
) -> ReducedFunctional:
    """Minus the logarithm of the likelihood, with a prior of the posterior density.  Collective.

    Each rank has a part of the stations, side by side; parameters are those of :class:`Columns`.
    """
    parts = min(COMM_WORLD.size, len(stations))
    members = [part.tolist() for part in np.array_split(stations, parts)]

    def build(part: list[int], comm: MPI.Comm) -> AdjFloat:
        return Columns(record, law, part, every, noise, comm).misfit()

    with recording():
        Jhat = femnn.ensemble(build, members, controls=law)
        if prior is None:
            return Jhat
        J = Jhat.functional + prior.energy()
        return ReducedFunctional(J, Control(femnn.Weights.of(law)))


def steps_of(result: femnn.FitResult | femnn.EvidenceResult, record: Record) -> int:
    """Time steps of all stations together: forwards, as adjoints, and tangents' directions."""
    solves = result.solves
    runs = solves.forward + solves.adjoint + solves.tangent
    return (len(record.days) - 1) * runs
