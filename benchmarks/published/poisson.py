"""-div(k grad u) = f on the unit square, with u = sin(pi x) sin(pi y) and zero Dirichlet data."""

from collections.abc import Callable

import numpy as np
from firedrake import *

import femnn
from benchmarks.published.methods import DIRECT
from demos.studies.common import relative_difference

DEGREE = 4


def grid(n: int = 200) -> np.ndarray:
    """The midpoints of n x n squares, shape ``(n * n, 2)``."""
    line = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def coefficient_error(net, truth: Callable, points: np.ndarray) -> float:
    """Relative L2 error of a network of x and y against the truth, on points of a grid."""
    return relative_difference(femnn.evaluate(net, *points.T), truth(*points.T))


def constant_error(truth: Callable, points: np.ndarray) -> float:
    """The same of the best constant."""
    values = truth(*points.T)
    return relative_difference(values.mean(), values)


def network(seed: int) -> femnn.MLP:
    """The paper's for steady problems; weights from U[0, 1), biases zero."""
    return femnn.MLP(2, 30, 1, activation="sigmoid", init="uniform", seed=seed)


class Poisson:
    """The problem with a true coefficient, on n x n squares of two triangles, P1.

    Parameters
    ----------
    n
        Squares along a side.
    truth
        The coefficient as a function of x and y, for UFL and numpy.
    """

    def __init__(self, n: int, truth: Callable):
        self.truth = truth
        self.mesh = UnitSquareMesh(n, n)
        self.V = FunctionSpace(self.mesh, "P", 1)
        self.x, self.y = SpatialCoordinate(self.mesh)
        self.exact = sin(pi * self.x) * sin(pi * self.y)
        self.f = -div(truth(self.x, self.y) * grad(self.exact))
        self.dx = dx(degree=DEGREE)

    def law(self, method):
        """The network in the coefficient's place."""
        return method.law(self.x, self.y, degree=DEGREE)

    def solve(self, method, k) -> Function:
        """The solution with a coefficient, recorded where annotation is on."""
        u = Function(self.V, name="u")
        method.solver(self.residual(k, u), u, self.boundary()).solve()
        return u

    def residual(self, k, u: Function):
        v = TestFunction(self.V)
        return k * inner(grad(u), grad(v)) * self.dx - self.f * v * self.dx

    def boundary(self) -> DirichletBC:
        return DirichletBC(self.V, 0, "on_boundary")

    def errors(self, net) -> dict[str, float]:
        """Relative L2 errors of the coefficient and of the solution with it."""
        u = Function(self.V)
        k = femnn.NeuralCoefficient(net, self.x, self.y, degree=DEGREE)
        femnn.solve(self.residual(k, u) == 0, u, self.boundary(), solver_parameters=DIRECT)
        fine = dx(degree=8)
        error = assemble((u - self.exact) ** 2 * fine) / assemble(self.exact**2 * fine)
        return {
            "k_error": coefficient_error(net, self.truth, grid()),
            "u_error": float(error**0.5),
        }
