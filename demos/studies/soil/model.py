"""Columns of freezing soil: d/dt H(T, z) = d/dz (k(T, z) dT/dz), with the laws as torch modules."""

from collections.abc import Callable

import numpy as np
from firedrake import *
from firedrake.adjoint import *
from pyadjoint import AdjFloat, Block

import femnn
from demos.studies.common import recording, side_by_side
from femnn import NeuralCoefficient, NeuralVariationalProblem, NeuralVariationalSolver

from .data import Runs
from .laws import Distance, HeatStep, Laws

DEGREE = 2  # two Gauss points in each cell
APART = 100.0  # m between columns, so that a node's coordinate tells its column
PARAMETERS = {
    "snes_linesearch_type": "bt",
    "snes_rtol": 1e-7,
    "snes_atol": 1e-9,
    "snes_max_it": 40,
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "petsc",
}


class Soil:
    """Several runs side by side, each in a column of its own in one mesh.

    A step costs nearly the same for one column as for eight, and the columns do not touch
    each other.  Cells end at the thermometers and halfway between them.

    Parameters
    ----------
    laws
        The laws, from ``laws``.
    runs
        What was measured; the top and bottom thermometers are boundary values.
    depths
        Of the thermometers, in m.
    wet
        For each run the number that the laws take for its water.
    """

    def __init__(self, laws: Laws, runs: Runs, depths: np.ndarray, wet: list[float]):
        self.laws, self.runs, self.depths = laws, runs, depths
        n_columns = len(wet)
        mesh = columns(depths, n_columns)
        self.V = V = FunctionSpace(mesh, "CG", 1)
        x = Function(V).interpolate(SpatialCoordinate(mesh)[0]).dat.data_ro
        self.column = np.floor(x / APART).astype(int)
        self.depth = x - APART * self.column
        self.nodes = np.array([self._nodes_of(c) for c in range(n_columns)])
        self.T, self.T_old = Function(V, name="temperature"), Function(V)
        self.boundary = Function(V)
        z, water = Function(V), Function(V)
        z.dat.data[:], water.dat.data[:] = self.depth, np.asarray(wet)[self.column]
        self.solver = self._solver(z, water)
        self.penalty = NeuralCoefficient(Distance(laws), z, degree=0)
        self.profiles = [self._profile(t) for t in range(len(runs.filled))]

    def _solver(self, z: Function, water: Function) -> NeuralVariationalSolver:
        T, v = self.T, TestFunction(self.V)
        law = NeuralCoefficient(HeatStep(self.laws), T, self.T_old, z, water, degree=DEGREE)
        stored, k = law[0], law[1]
        F = stored / self.runs.step * v * dx + k * T.dx(0) * v.dx(0) * dx
        self.weights = law.weights
        problem = NeuralVariationalProblem(F, T, DirichletBC(self.V, self.boundary, "on_boundary"))
        return NeuralVariationalSolver(problem, solver_parameters=PARAMETERS)

    def _nodes_of(self, column: int) -> np.ndarray:
        """The nodes of a column that are thermometers, from the top."""
        nodes = np.flatnonzero(self.column == column)
        return [nodes[np.argmin(np.abs(self.depth[nodes] - d))] for d in self.depths]

    def _profile(self, time: int) -> Function:
        """The measured temperatures of all columns, linear between thermometers."""
        profile = Function(self.V)
        for c, values in enumerate(self.runs.filled[time]):
            here = self.column == c
            profile.dat.data[here] = np.interp(self.depth[here], self.depths, values)
        return profile

    def march(self, observe: Callable[[Function], None]) -> None:
        """All steps, each with implicit Euler from the measured profile of the first day."""
        self.T.assign(self.profiles[0])
        self.T_old.assign(self.profiles[0])
        for profile in self.profiles[1:]:
            self.boundary.assign(profile)
            self.solver.solve()
            observe(self.T)
            self.T_old.assign(self.T)

    def simulate(self) -> np.ndarray:
        """Temperatures as ``runs.measured`` has them; nothing is recorded."""
        found = [self.runs.filled[0]]
        with stop_annotating():
            self.march(lambda T: found.append(T.dat.data_ro[self.nodes]))
        return np.stack(found)

    def errors(self) -> np.ndarray:
        """Modelled minus measured at the inner thermometers after the first day."""
        return (self.simulate() - self.runs.measured)[1:, :, 1:-1]

    def record(self, penalty: float) -> ReducedFunctional:
        """Mean over the runs of the mean square error, and the penalty, of the weights."""
        with recording():
            misfit = ThermometerMisfit(self.nodes[:, 1:-1], self.runs.measured[1:, :, 1:-1])
            self.march(misfit.observe)
            J = misfit.finish()
            if penalty:
                length = assemble(Constant(1.0) * dx(self.V.mesh()))
                J += femnn.assemble((penalty / length) * self.penalty * dx)
            Jhat = ReducedFunctional(J, Control(self.weights))
        Jhat.optimize_tape()
        return Jhat


def columns(depths: np.ndarray, n_columns: int) -> MeshGeometry:
    """A mesh of separate intervals, column c from APART c + depths[0] down."""
    x = np.sort(np.concatenate([depths, (depths[1:] + depths[:-1]) / 2]))
    return side_by_side(x, n_columns, APART)


class ThermometerMisfit(Block):
    """Mean square of modelled minus measured temperature at nodes, over steps and runs.

    One block on the tape for all steps: ``assemble`` would do the same with a block for each
    of some hundred steps, at a third of the run's time.
    """

    def __init__(self, nodes: np.ndarray, measured: np.ndarray):
        super().__init__()
        known = np.isfinite(measured)
        self.nodes = nodes
        self.measured = np.nan_to_num(measured)
        self.weights = known / (known.sum(axis=(0, 2), keepdims=True) * nodes.shape[0])
        self.now: list[np.ndarray] = []

    def observe(self, T: Function) -> None:
        """Take the next step's temperature."""
        self.add_dependency(T)
        self.now.append(T.dat.data_ro[self.nodes])

    def finish(self) -> AdjFloat:
        """The misfit, on the tape."""
        J = AdjFloat(self._value(self.now))
        get_working_tape().add_block(self)
        self.add_output(J.create_block_variable())
        return J

    def _value(self, found: list[np.ndarray]) -> float:
        return float((self.weights * (np.stack(found) - self.measured) ** 2).sum())

    def recompute_component(self, inputs, block_variable, idx, prepared):
        return AdjFloat(self._value([T.dat.data_ro[self.nodes] for T in inputs]))

    def evaluate_adj_component(self, inputs, adj_inputs, block_variable, idx, prepared=None):
        difference = inputs[idx].dat.data_ro[self.nodes] - self.measured[idx]
        gradient = FastCofunction(inputs[idx].function_space().dual())
        gradient.dat.data[self.nodes] = 2 * adj_inputs[0] * self.weights[idx] * difference
        return gradient


class FastCofunction(Cofunction):
    """A Cofunction to which others are added fast: pyop2 makes a kernel for each new one."""

    def __iadd__(self, other: Cofunction) -> Cofunction:
        self.dat.data[:] += other.dat.data_ro
        return self
