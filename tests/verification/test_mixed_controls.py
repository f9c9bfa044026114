"""Weights with a field, a Constant, boundary values and an initial state as controls at once."""

from functools import partial

import numpy as np
import scipy.optimize
from firedrake import *
from firedrake.adjoint import *
from scipy.sparse.linalg import LinearOperator, cg

import femnn
from tests.verification.derivatives import Recording
from tests.verification.problems.evolution import all_controls
from tests.verification.test_derivatives import check


def test_derivatives_here_and_away():
    for found in Recording(all_controls).accuracy(*all_controls.controls):
        check(found)


class InverseProblem:
    """All five unknown in a nonlinear heat equation, seen through its solution after one step."""

    def __init__(self):
        mesh = UnitSquareMesh(3, 2)
        V = FunctionSpace(mesh, "CG", 1)
        x, y = SpatialCoordinate(mesh)
        self.u, self.un = Function(V), Function(V)
        self.start = Function(V).interpolate(x * y)
        self.f = Function(V).interpolate(2 + x)
        self.g = Function(V).interpolate(x * y)
        self.c = Constant(1.3)
        net = femnn.MLP(1, 4, 1, output="softplus", seed=1)
        self.kappa = kappa = femnn.NeuralCoefficient(net, self.u)
        u, v = self.u, TestFunction(V)
        F = (u - self.un) / 0.2 * v * dx + kappa * inner(grad(u), grad(v)) * dx
        F -= self.c * self.f * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, self.g, (1, 3)))
        parameters = {"snes_rtol": 1e-13, "snes_atol": 1e-14}
        self.solver = femnn.NeuralVariationalSolver(problem, solver_parameters=parameters)
        self.seen = self.step().copy(deepcopy=True)
        for field in (self.start, self.f, self.g):
            field.interpolate(field + 0.3 * cos(3 * x + 5 * y))
        self.c.assign(1.0)
        self.assumed = [field.copy(deepcopy=True) for field in (self.start, self.f, self.g)]

    def step(self):
        self.un.assign(self.start)
        self.u.assign(self.start)
        return self.solver.solve()

    def functional(self):
        """The misfit, and how far all unknown are from what is assumed of them beforehand."""
        J = 0.05 * self.kappa.weights.squared_norm()
        J += assemble(0.5 * (self.c - 1) ** 2 * dx(self.u.function_space().mesh()))
        for field, assumed in zip((self.start, self.f, self.g), self.assumed, strict=True):
            J += assemble(0.5 * (field - assumed) ** 2 * dx)
        J += assemble(20 * (self.step() - self.seen) ** 2 * dx)
        controls = [self.kappa.weights, self.f, self.c, self.g, self.start]
        return ReducedFunctional(J, [Control(c) for c in controls])


class Packed:
    """A functional of one vector, which holds the values of all its controls.

    pyadjoint's own takes no Constants.
    """

    def __init__(self, Jhat):
        self.Jhat = Jhat
        self.start = self.pack([c.control for c in Jhat.controls])

    @staticmethod
    def pack(values):
        arrays = [v.vector if isinstance(v, femnn.Weights) else v.dat.data_ro for v in values]
        return np.concatenate([array.ravel() for array in arrays])

    def unpack(self, x):
        values, end = [], 0
        for control in (c.control for c in self.Jhat.controls):
            if isinstance(control, Constant):
                value, end = Constant(x[end]), end + 1
            else:
                value, end = control._ad_assign_numpy(control._ad_copy(), x, end)
            values.append(value)
        return values

    def value(self, x):
        return float(self.Jhat(self.unpack(x)))

    def gradient(self, x):
        self.value(x)
        return self.pack(self.Jhat.derivative())

    def hessian(self, x, direction):
        return self.pack(self.Jhat.hessian(self.unpack(direction)))


def test_newton_cg_over_weights_and_fields(capsys):
    """SciPy's Newton-CG finds the minimum; near it, Newton's method converges quadratically."""
    problem = InverseProblem()
    continue_annotation()
    Jhat = problem.functional()
    pause_annotation()
    J = Packed(Jhat)
    slope = np.linalg.norm(J.gradient(J.start))
    found = scipy.optimize.minimize(
        J.value,
        J.start,
        method="Newton-CG",
        jac=J.gradient,
        hessp=J.hessian,
        options={"xtol": 1e-7},
    )
    assert found.success, found.message
    assert found.fun < J.value(J.start)
    assert np.linalg.norm(found.jac) < 1e-6 * slope

    x = found.x + 0.05 * np.cos(np.arange(len(found.x)))
    norms = []
    for _ in range(8):
        gradient = J.gradient(x)
        norms.append(np.linalg.norm(gradient))
        if norms[-1] < 1e-11 * slope:
            break
        H = LinearOperator((len(x), len(x)), matvec=partial(J.hessian, x))
        change, failed = cg(H, -gradient, rtol=min(0.1, norms[-1] / slope), maxiter=500)
        assert not failed
        x = x + change
    with capsys.disabled():
        print("\ngradient norms of Newton's method:", " ".join(f"{n:.1e}" for n in norms))
    assert norms[-1] < 1e-11 * slope
    falls = np.diff(np.log(norms))
    assert max(falls[1:] / falls[:-1]) > 1.8
    assert np.allclose(x, found.x, atol=1e-4)
