"""What an explicit step of two levels costs: a wave whose stiffness is a law of its strain.

u'' = (k(u_x) u_x)_x on 88 cells, P1, by central differences with a lumped mass matrix.  A step is
the acceleration from a diagonal system, ``new.assign(2 * now - before + dt**2 * a)`` and two
copies.  The tape's recomputation of a step and its adjoint, over the step of Firedrake for the
same equation without a network.  Processor times.
"""

import numpy as np
from firedrake import *

import femnn
from benchmarks import steps

CELLS = 88
DIAGONAL = {"ksp_type": "preonly", "pc_type": "jacobi"}


def measure(repeats):
    return steps.compare({"bare": Bare, "pyadjoint": WithPyadjoint, "femnn": WithFemnn}, repeats)


class Bare(steps.Bare):
    """Firedrake's solver alone."""

    def __init__(self, cells=CELLS):
        V = FunctionSpace(UnitIntervalMesh(cells), "CG", 1)
        (self.x,) = SpatialCoordinate(V.mesh())
        self.a, self.u, self.un, self.before = (Function(V, name=n) for n in ("a", "u", "un", "um"))
        self.dt = Constant(0.3 / cells)
        v, w = TestFunction(V), TrialFunction(V)
        L = -self.stiffness() * inner(grad(self.un), grad(v)) * dx
        mass = w * v * dx(scheme="KMV", degree=1)
        self.solver = self.make_solver(mass, L, DirichletBC(V, 0, "on_boundary"))

    def stiffness(self):
        return 1 + grad(self.un)[0] ** 2

    def make_solver(self, a, L, bc):
        problem = LinearVariationalProblem(a, L, self.a, bc, constant_jacobian=True)
        return LinearVariationalSolver(problem, solver_parameters=DIAGONAL)

    def run(self):
        self.before.interpolate(0.1 * sin(np.pi * self.x))
        self.un.assign(self.before)
        for _ in range(steps.STEPS):
            self.solver.solve()
            self.u.assign(2 * self.un - self.before + self.dt**2 * self.a)
            self.before.assign(self.un)
            self.un.assign(self.u)
        return self.u


class WithPyadjoint(Bare, steps.WithPyadjoint):
    """The same, recorded and differentiated by pyadjoint, for a field in the equation."""

    def stiffness(self):
        self.control = Function(self.un.function_space(), name="m").assign(0.5)
        return self.control + grad(self.un)[0] ** 2


class WithFemnn(WithPyadjoint):
    """The stiffness a 1-30-1 network of the strain."""

    functional, near = steps.WithFemnn.functional, steps.WithFemnn.near

    def stiffness(self):
        net = femnn.MLP(1, 30, 1, output="softplus", seed=1)
        kappa = femnn.NeuralCoefficient(net, grad(self.un)[0], degree=2)
        self.control = kappa.weights
        return kappa

    def make_solver(self, a, L, bc):
        problem = femnn.NeuralVariationalProblem.linear(a, L, self.a, bc)
        return femnn.NeuralVariationalSolver(problem, solver_parameters=DIAGONAL)
