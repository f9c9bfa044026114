"""A transport term that a diffusion equation lacks: the equation, the truth, data and errors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from firedrake import *

import femnn

DIFFUSIVITY = 0.1
DEGREE = 2  # of the quadrature of G
STEP, FINE_STEP = 0.1, 0.01
FINER = 10 / 3  # cells along a side of the mesh that observations come from, over the model's
OBSERVED = 0.2  # time between observations
END = 5.0
DECAY = 1e-6

Operator = Callable[[Any, Any, Any, Any], Any]
Signal = Callable[[float], float]


def signal(t: float) -> float:
    """The boundary value in the training run."""
    return float(np.sin(t) ** 2)


def other_signal(t: float) -> float:
    """A boundary value that the models have not seen, and up to twice as high."""
    return float(2 * np.sin(t / 2) ** 2)


def truth(u, un, x, y):
    """The operator that is to be recovered, in the middle between u and un."""
    velocity = as_vector([sin(pi * x) * cos(pi * y), -cos(pi * x) * sin(pi * y)])
    return div(velocity * (u + un) / 2)


def nothing(u, un, x, y):
    """No operator: diffusion alone."""
    return Constant(0.0)


def learned(law: Callable) -> Operator:
    """A law of u, its gradient, x and y: a ``NeuralCoefficient`` of these, or plain UFL."""

    def operator(u, un, x, y):
        middle = (u + un) / 2
        return law(middle, *grad(middle), x, y, degree=DEGREE)

    return operator


def learned_factors(law: Callable) -> Operator:
    """u and its gradient, times the three values of a law of x and y."""

    def operator(u, un, x, y):
        middle = (u + un) / 2
        return dot(law(x, y, degree=DEGREE), as_vector([middle, middle.dx(0), middle.dx(1)]))

    return operator


def solver_parameters(comm) -> dict[str, Any]:
    """For PETSc: Newton, and a direct solver."""
    return {
        "snes_atol": 1e-10,
        "ksp_type": "preonly",
        "pc_type": "lu",
        "pc_factor_mat_solver_type": "petsc" if comm.size == 1 else "mumps",
    }


def kept_solver(F, u: Function, bc: DirichletBC) -> femnn.NeuralVariationalSolver:
    """A solver for all steps."""
    problem = femnn.NeuralVariationalProblem(F, u, bc)
    return femnn.NeuralVariationalSolver(problem, solver_parameters=solver_parameters(u.comm))


class Transport:
    """The PDE with an operator G, P1 in space, Crank-Nicolson in time.

    Parameters
    ----------
    mesh
        Of the unit square.
    step
        The time step.
    operator
        Gives G as a UFL expression of the new u, the old u, x and y.
    make_solver
        Makes an object whose ``solve()`` takes a step, of the residual, the unknown and its
        boundary condition.  Firedrake's own solvers serve where the operator is plain UFL.
    """

    def __init__(self, mesh, step: float, operator: Operator, make_solver=kept_solver):
        self.V = V = FunctionSpace(mesh, "P", 1)
        self.step = step
        self.u, self.un, self.left = (Function(V, name=name) for name in ("u", "un", "left"))
        u, un, v = self.u, self.un, TestFunction(V)
        F = (u - un) / Constant(step) * v * dx
        F += DIFFUSIVITY * inner(grad((u + un) / 2), grad(v)) * dx
        F += operator(u, un, *SpatialCoordinate(mesh)) * v * dx(degree=DEGREE)
        self.solver = make_solver(F, u, DirichletBC(V, self.left, 1))

    def march(self, signal: Signal, end: float) -> Iterator[Function]:
        """All steps from u = 0; yields u each time that it is observed."""
        every = round(OBSERVED / self.step)
        self.u.assign(0.0)
        self.un.assign(0.0)
        for k in range(1, round(end / self.step) + 1):
            self.left.assign(signal(k * self.step))
            self.solver.solve()
            self.un.assign(self.u)
            if k % every == 0:
                yield self.u

    def states(self, signal: Signal, end: float) -> list[Function]:
        """All that :meth:`march` yields, as copies."""
        return [u.copy(deepcopy=True) for u in self.march(signal, end)]


def observe(
    cells: int, space, signal: Signal, end: float, step: float = FINE_STEP
) -> list[Function]:
    """What the true operator gives on a fine mesh, interpolated to another space."""
    fine = Transport(UnitSquareMesh(cells, cells), step, truth)
    return [Function(space).interpolate(u) for u in fine.march(signal, end)]


def cases_and_data(
    space, cells: int, longer: float, end: float = END, step: float = FINE_STEP
) -> tuple[dict[str, tuple[Signal, float]], dict[str, list[Function]]]:
    """The signal and the end of each run; its observations, from a mesh of so many cells a side.

    The run that is fitted is the beginning of the longer one.
    """
    cases = {"other signal": (other_signal, end), "longer": (signal, longer)}
    data = {case: observe(cells, space, *run, step) for case, run in cases.items()}
    cases["training"] = (signal, end)
    data["training"] = data["longer"][: round(end / OBSERVED)]
    return cases, data


def networks(seed: int, hidden: int = 30) -> tuple[femnn.MLP, femnn.MLP]:
    """The paper's for G; that of the three factors of a G which is linear in u."""
    options = {"init": "normal", "seed": seed}
    return femnn.MLP(5, hidden, 1, **options), femnn.MLP(2, hidden, 3, **options)


def misfit(model: Transport, data: Sequence[Function], assemble: Callable = femnn.assemble):
    """The squared L2 distances to the observations of the training run, summed over time."""
    J, observed = 0.0, Function(model.V)
    for u, seen in zip(model.march(signal, OBSERVED * len(data)), data, strict=True):
        observed.assign(seen)
        J += assemble((u - observed) ** 2 * dx)
    return J


def squares(functions: Sequence[Function]) -> np.ndarray:
    """The squared L2 norm of each."""
    f = Function(functions[0].function_space())
    return np.array([assemble(f.assign(g) ** 2 * dx) for g in functions])


def in_time(values: np.ndarray) -> float:
    """The integral over time by the trapezoidal rule; all is 0 at t = 0."""
    return OBSERVED * float(values.sum() - values[-1] / 2)


def state_error(states: Sequence[Function], data: Sequence[Function]) -> tuple[float, np.ndarray]:
    """Relative L2 errors of u: in time and space, and in space at each time."""
    apart = [Function(seen).assign(u - seen) for u, seen in zip(states, data, strict=True)]
    error, size = squares(apart), squares(data)
    return (in_time(error) / in_time(size)) ** 0.5, (error / size) ** 0.5


def operator_error(operator: Operator, data: Sequence[Function]) -> float:
    """Relative L2 error of G in time and space, at the observed u."""
    u, points = Function(data[0].function_space()), dx(degree=DEGREE)
    at = (u, u, *SpatialCoordinate(u.function_space().mesh()))
    found, wanted = operator(*at), truth(*at)
    pairs = []
    for seen in data:
        u.assign(seen)
        pairs.append([femnn.assemble(g**2 * points) for g in (found - wanted, wanted)])
    error, size = np.transpose(pairs)
    return (in_time(error) / in_time(size)) ** 0.5


def evaluate(model: Transport, cases: dict[str, tuple], data: dict[str, list]) -> tuple:
    """For each case the error of u, its errors in space at each time, and u at each time."""
    errors, curves, states = {}, {}, {}
    for case, run in cases.items():
        states[case] = model.states(*run)
        errors[case], curves[case] = state_error(states[case], data[case])
    return errors, curves, states
