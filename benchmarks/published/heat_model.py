"""u_t = (k(x) u_x)_x on (0, 1): fine data, and the coarse model with a network for k."""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from firedrake import *
from firedrake.adjoint import *

import femnn
from benchmarks.published.methods import Hybrid
from demos.studies.common import relative_difference

END, REGULARISATION, DEGREE = 0.1, 1e-8, 4


def smooth(x):
    """The coefficient 2 x + 1, for UFL and numpy."""
    return 2 * x + 1


def discontinuous(x):
    """The coefficient that is 2 between 0.25 and 0.75 and 1 elsewhere, for UFL and numpy."""
    if isinstance(x, np.ndarray):
        return np.where((x >= 0.25) & (x <= 0.75), 2.0, 1.0)
    return conditional(And(x >= 0.25, x <= 0.75), 2.0, 1.0)


TRUTHS = {"smooth": smooth, "discontinuous": discontinuous}


def nodes_in_order(V: FunctionSpace) -> np.ndarray:
    """The degrees of freedom of a space on an interval, from left to right."""
    return np.argsort(Function(V).interpolate(SpatialCoordinate(V.mesh())[0]).dat.data_ro)


def fine_solution(truth: Callable, cells: int, step: float, every: float) -> np.ndarray:
    """Values in the ``cells + 1`` nodes at times 0, ``every``, ..., 0.1; P1.

    The method in time is the two-stage, stiffly accurate diagonally implicit one of order 2
    (Alexander, SIAM J. Numer. Anal. 14, 1977): both stages have the same matrix, factorised once,
    and what the jumps of k start is damped.
    """
    mesh = UnitIntervalMesh(cells)
    V = FunctionSpace(mesh, "P", 1)
    (x,) = SpatialCoordinate(mesh)
    u, v = TrialFunction(V), TestFunction(V)
    order = nodes_in_order(V)
    start = Function(V).project(x * (1 - x)).dat.data_ro[order]
    mass, stiffness = (
        _matrix(form)[order][:, order][1:-1, 1:-1]
        for form in (u * v * dx, truth(x) * inner(grad(u), grad(v)) * dx(degree=DEGREE))
    )
    gamma = 1 - 0.5**0.5
    solve = scipy.sparse.linalg.splu((mass + gamma * step * stiffness).tocsc()).solve
    state, rows = start[1:-1], [start]
    steps_between = round(every / step)
    for i in range(1, round(END / step) + 1):
        first = solve(-(stiffness @ state))
        second = solve(-(stiffness @ (state + step * (1 - gamma) * first)))
        state = state + step * ((1 - gamma) * first + gamma * second)
        if i % steps_between == 0:
            rows.append(np.concatenate([[0.0], state, [0.0]]))
    return np.array(rows)


def _matrix(form) -> scipy.sparse.csr_array:
    handle = assemble(form).petscmat
    indptr, indices, values = handle.getValuesCSR()
    return scipy.sparse.csr_array((values, indices, indptr), shape=handle.getSize())


class Heat:
    """The coarse model and its data.

    Parameters
    ----------
    truth
        The true coefficient.
    cells, step
        P1 cells and Crank-Nicolson step of the model.
    data_cells, data_step
        The same of the data.
    observed_every
        Time between observations.
    """

    def __init__(self, truth, cells, step, data_cells, data_step, observed_every):
        self.truth, self.step = truth, step
        self.steps, self.observed_each = round(END / step), round(observed_every / step)
        mesh = UnitIntervalMesh(cells)
        self.mesh, self.V = mesh, FunctionSpace(mesh, "P", 1)
        (self.x,) = SpatialCoordinate(mesh)
        self.order = nodes_in_order(self.V)
        self.nodes = np.linspace(0, 1, cells + 1)
        self.times = step * np.arange(self.steps + 1)
        fine = fine_solution(truth, data_cells, data_step, step)
        fine_nodes = np.linspace(0, 1, data_cells + 1)
        self.data = np.array([np.interp(self.nodes, fine_nodes, row) for row in fine])
        self.start = Function(self.V).project(self.x * (1 - self.x))

    def observed(self, i: int) -> bool:
        """Whether step ``i`` is observed."""
        return i % self.observed_each == 0

    def function(self, values: np.ndarray) -> Function:
        """Values in the nodes, from left to right, as a Function."""
        u = Function(self.V)
        u.dat.data_wo[self.order] = values
        return u

    def states(self, method, k):
        """The solution after each step, always the same Function; recorded with annotation."""
        u, u0 = Function(self.V, name="u"), Function(self.V, name="u0")
        u.assign(self.start)
        v, d = TestFunction(self.V), dx(degree=DEGREE)
        F = (u - u0) / self.step * v * d + 0.5 * k * inner(grad(u + u0), grad(v)) * d
        solver = method.solver(F, u, DirichletBC(self.V, 0, "on_boundary"))
        for _ in range(self.steps):
            u0.assign(u)
            solver.solve()
            yield u

    def model(self, method) -> float:
        """The misfit at the observed times and the penalty, as a function of the method."""
        k = method.law(self.x, degree=DEGREE)
        J = method.assemble(REGULARISATION * k**2 * dx(degree=DEGREE))
        for i, u in enumerate(self.states(method, k), start=1):
            if self.observed(i):
                J += method.assemble((u - self.function(self.data[i])) ** 2 * dx)
        return J

    def errors(self, net) -> dict[str, float]:
        """Relative L2 errors of k, and of u at all steps of the model."""
        with stop_annotating():
            method = Hybrid(net, self.mesh)
            states = self.states(method, method.law(self.x, degree=DEGREE))
            found = np.array([u.dat.data_ro[self.order] for u in states])
        return self.errors_of(femnn.evaluate(net, midpoints()), found)

    def errors_of(self, k: np.ndarray, u: np.ndarray) -> dict[str, float]:
        """The same for values of k at :func:`midpoints` and of u at all nodes and steps."""
        return {
            "k_error": relative_difference(k, self.truth(midpoints())),
            "u_error": relative_difference(u, self.data[1:]),
        }


def midpoints(n: int = 1000) -> np.ndarray:
    """Points on which errors of k are taken."""
    return (np.arange(n) + 0.5) / n


def network(seed: int) -> femnn.MLP:
    """The paper's for k; weights from U[0, 1), biases zero."""
    return femnn.MLP(1, 30, 1, activation="tanh", init="uniform", seed=seed)
