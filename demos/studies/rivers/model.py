"""Water in a river tree: d section / dt + d flow / ds = water from the side."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from torch import nn

import femnn
from demos.studies.common import recording
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .laws import FlowLaw
from .tree import Tree

DAY = 86400.0  # s
LUMPED = dx(scheme="KMV", degree=1)  # each node has the river that is nearer to it than to others
MIDDLE = dx(degree=1)
PARAMETERS = {
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


class Spread(nn.Module):
    """Water from the areas between gauges, spread over the nodes along them, in m2/s.

    Parameters
    ----------
    runoff
        A module that gives mm/day, shape ``(areas, parts, days)``.
    part
        Of each node of the mesh, shape ``(nodes,)``.
    weights
        m3/s in a mm/day of each area, by metre of river at each node, shape ``(nodes, areas)``.
    """

    def __init__(self, runoff: nn.Module, part: np.ndarray, weights: np.ndarray):
        super().__init__()
        self.runoff = runoff
        self.register_buffer("part", torch.tensor(part))
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self) -> torch.Tensor:
        return torch.einsum("na,ant->nt", self.weights, self.runoff()[:, self.part])


class Rivers:
    """Several parts of a record side by side, each in a copy of the tree in one mesh.

    A step is linear in the new sections, with the flow's law and celerity at the old ones, upwind:
    what leaves a node is its own flow, so that nothing is lost at junctions.

    Parameters
    ----------
    tree
        The river.
    law
        Of the flow.
    inflow
        For each of the tree's inlets the daily means in m3/s, shape ``(parts, days)``.
    runoff
        A module that gives the water between gauges in mm/day, shape ``(areas, parts, days)``; none
        without.
    between
        The areas between gauges, in km2.
    steps
        In a day.
    interval
        What is called a day, in s.

    Attributes
    ----------
    section : Function
        Of the flow at the nodes, in m2.
    passed : ufl.core.expr.Expr
        What has passed in a day, as daily mean in m3/s, where it gathers.
    weights : femnn.Weights
        The law's.
    first : numpy.ndarray or None
        The sections at first at the mesh's nodes; without, those of a steady flow as on the first
        day by the law as it is when steps are made, which the tape does not follow.
    """

    def __init__(
        self,
        tree: Tree,
        law: FlowLaw,
        inflow: dict[str, np.ndarray],
        runoff: nn.Module | None = None,
        between: np.ndarray | None = None,
        steps: int = 1,
        interval: float = DAY,
    ):
        self.tree, self.law, self.inflow = tree, law, inflow
        self.steps, self.interval = steps, interval
        self.n_parts, self.n_days = next(iter(inflow.values())).shape
        self.mesh = mesh = tree.copies(self.n_parts)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        places = Function(VectorFunctionSpace(mesh, "CG", 1)).interpolate(SpatialCoordinate(mesh))
        self.part, self.node = tree.find(places.dat.data_ro, self.n_parts)
        self.section, self.last, self.yesterday = (Function(V) for _ in range(3))
        self.source, self.downstream, self.length = Function(V), Function(V), Function(V)
        self.downstream.dat.data[:] = tree.downstream[self.node]
        self.length.dat.data[:] = tree.length[self.node]
        self.site = Function(VectorFunctionSpace(mesh, "CG", 1, dim=2))
        self.site.dat.data[:] = np.column_stack([tree.area, tree.slope])[self.node]
        self.first: np.ndarray | None = None
        self.spread: Spread | None = None
        self.between = between
        if runoff is not None:
            per_metre = tree.share / tree.length[:, None] * between * 1e3 / DAY
            self.spread = Spread(runoff, self.part, per_metre[self.node])
            self.from_the_side = Function(VectorFunctionSpace(mesh, "CG", 1, dim=self.n_days))
            self.today = Constant(np.zeros(self.n_days))
        self.passed = (self.section - self.yesterday) * self.length / interval
        self.solver = self._solver()
        self.stations = self._stations()

    def _solver(self) -> NeuralVariationalSolver:
        V, last, dt = self.V, self.last, self.interval / self.steps
        new, v = TrialFunction(V), TestFunction(V)
        both = VectorFunctionSpace(self.mesh, "CG", 1, dim=2)
        self.flow = NeuralCoefficient(self.law, last, self.site, space=both)
        self.weights = self.flow.weights

        def along(f):
            return dot(grad(f), grad(self.downstream))

        def above(f):
            return f - CellVolume(self.mesh) / 2 * along(f)

        passing = above(self.flow[0]) + above(self.flow[1]) * above(new - last)
        F = (new - last) / dt * v * LUMPED - passing * along(v) * MIDDLE - self.source * v * LUMPED
        if self.spread is not None:
            F -= dot(self.from_the_side, self.today) * v * LUMPED
        problem = NeuralVariationalProblem.linear(lhs(F), rhs(F), self.section)
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _stations(self) -> femnn.Stations:
        """Where water gathers behind each outlet, by part and outlet."""
        where = [node for node in self.tree.gathers.values()]
        points = self.tree.places_of_copies(self.n_parts).reshape(self.n_parts, -1, 2)[:, where]
        names = [f"{i}: {name}" for i in range(self.n_parts) for name in self.tree.gathers]
        return femnn.Stations(self.mesh, points.reshape(-1, 2), names)

    def observations(self, measured: np.ndarray, warm_up: int, **options) -> femnn.Observations:
        """Daily means at the outlets; what the initial state still decides is left out.

        Parameters
        ----------
        measured
            In m3/s, shape ``(parts, outlets, days)``.
        warm_up
            Days at the beginning that do not count.
        **options
            More for :class:`femnn.Observations`.
        """
        values = np.moveaxis(measured, 2, 0).reshape(self.n_days, -1).copy()
        values[:warm_up] = np.nan
        times = np.arange(1.0, self.n_days + 1)
        return femnn.Observations(self.stations, values, times=times, units="m3/s", **options)

    def _given(self, day: int) -> np.ndarray:
        """The inflow of a day by metre of river, at the mesh's nodes."""
        by_node = np.zeros((self.n_parts, len(self.tree)))
        for name, node in self.tree.inlets.items():
            by_node[:, node] = self.inflow[name][:, day] / self.tree.length[node]
        return by_node[self.part, self.node]

    def initial(self) -> np.ndarray:
        """The sections at first, of all nodes of the mesh."""
        if self.first is not None:
            return self.first
        flow = self.tree.passed({name: q[:, 0] for name, q in self.inflow.items()})
        flow = np.maximum(flow, 0.1)
        flow[:, list(self.tree.gathers.values())] = 0.1
        site = self.tree.area[self.node], self.tree.slope[self.node]
        return self.law.section(flow[self.part, self.node], *site)

    def march(self, *observers: Callable[[Function, float], None], each: Callable | None = None):
        """All steps; observers take what has passed and the day, ``each`` is called after steps."""
        self.last.dat.data[:] = self.initial()
        self.section.assign(self.last)
        self.yesterday.assign(self.last)
        if self.spread is not None:
            side = self.from_the_side
            side.assign(femnn.apply(self.spread, into=side.function_space()))
        for observe in observers:
            observe(self.passed, 0.0)
        for day in range(self.n_days):
            self.source.dat.data[:] = self._given(day)
            if self.spread is not None:
                self.today.assign(np.eye(self.n_days)[day])
            for _ in range(self.steps):
                self.solver.solve()
                if each is not None:
                    each(day)
                self.last.assign(self.section)
            for observe in observers:
                observe(self.passed, day + 1.0)
            self.yesterday.assign(self.section)

    def simulate(self, names: Iterable[str] | None = None) -> np.ndarray:
        """Daily means in m3/s, shape ``(parts, points, days)``; not recorded.

        Parameters
        ----------
        names
            Of points of the tree, the outlets by default.
        """
        nodes = [self.tree.node[name] for name in names or self.tree.gathers]
        found = np.zeros((self.n_parts, len(self.tree), self.n_days))

        def add(day: int) -> None:
            flow, celerity = self.flow.dat.data_ro.T
            change = self.section.dat.data_ro - self.last.dat.data_ro
            found[self.part, self.node, day] += (flow + celerity * change) / self.steps

        with stop_annotating():
            self.march(each=add)
        return found[:, nodes]

    def balance(self) -> dict[str, float]:
        """The water of all parts and days, in millions of m3.

        What is stored or has passed the outlets at the end is what was there at first, what came
        in and what came from the side, which is taken from the network; what is left of the
        difference is the solver's.
        """
        with stop_annotating():
            self.march()
        volume = self.section.dat.data_ro * self.length.dat.data_ro / 1e6
        where = np.isin(self.node, list(self.tree.gathers.values()))
        first = self.initial() * self.length.dat.data_ro / 1e6
        day = self.interval / 1e6
        given = day * sum(q.sum() for q in self.inflow.values())
        side = 0.0
        if self.spread is not None:
            depth = self.spread.runoff().detach().numpy()
            side = day * float((depth.sum((1, 2)) * self.between).sum()) * 1e3 / DAY
        passed = volume[where].sum() - first[where].sum()
        stored = volume[~where].sum() - first[~where].sum()
        found = {"came in": given, "from the side": side, "passed": passed, "stored": stored}
        return {k: float(v) for k, v in found.items()} | {
            "left": float(given + side - passed - stored)
        }

    def record(
        self, data: femnn.Observations, *more, precision: float | None = None
    ) -> ReducedFunctional:
        """Minus the logarithm of a posterior density of the weights of law and runoff.

        Parameters
        ----------
        data
            As :meth:`observations` gives them.
        *more
            Further controls, as of the errors' sizes.
        precision
            Of the normal prior of all weights around zero; none, and so the likelihood, without.
        """
        with recording():
            observe = data.start()
            self.march(observe)
            J = observe.misfit()
            if precision is not None:
                for weights in self.controls:
                    J += femnn.GaussianPrior(weights, precision, groups="all").energy()
            return ReducedFunctional(J, [Control(c) for c in (*self.controls, *more)])

    @property
    def controls(self) -> list[femnn.Weights]:
        """The weights of the law, and of the network beside the river where there is one."""
        if self.spread is None:
            return [self.weights]
        return [self.weights, femnn.Weights.of(self.spread, self.mesh.comm)]
