"""Solves that fail or cannot be: what they say, what stays as it was."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from tests.unit.solves.diffusion import (
    TIGHT,
    mlp,
    recorded_blocks,
)


class Broken(torch.nn.Module):
    """Not a number from some input on."""

    def forward(self, x):
        return torch.where(x > 0.1, float("nan"), 1 + x**2)


def test_a_solve_that_does_not_converge(V):
    u, v = Function(V).assign(0.25), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    options = {"snes_max_it": 1, **TIGHT}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
    continue_annotation()
    with pytest.raises(ConvergenceError) as caught:
        solver.solve()
    pause_annotation()
    text = str(caught.value)
    assert "DIVERGED_MAX_IT" in text
    assert "The unknown keeps the value it had. Try a better initial guess" in text
    assert "'snes_linesearch_type': 'bt'" in text
    assert "NaN" not in text
    assert (u.dat.data_ro == 0.25).all()
    assert "SolveBlock" not in recorded_blocks()
    solver.snes.setTolerances(max_it=50)
    solver.solve()
    assert not (u.dat.data_ro == 0.25).all()


def test_a_network_that_gives_nan_is_named(V):
    u, v = Function(V), TestFunction(V)
    law = femnn.NeuralCoefficient(Broken(), u, name="conductivity")
    F = law * inner(grad(u), grad(v)) * dx - 10 * v * dx
    with pytest.raises(ConvergenceError, match="At the last iterate conductivity gave NaN"):
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    assert (u.dat.data_ro == 0).all()


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("where", ["a field", "a constant", "the boundary"])
def test_nan_in_the_data_is_named(where):
    comm = MPI.COMM_WORLD
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    u, v = Function(V), TestFunction(V)
    f, c, g = Function(V, name="heat"), Constant(1.0, name="scale"), Function(V)
    u.assign(0.5)
    if where == "a field":
        f.dat.data_wo[:] = np.nan if comm.rank == comm.size - 1 else 1.0  # on one rank only
    elif where == "a constant":
        c.assign(np.inf)
    elif where == "the boundary":
        g.assign(np.nan)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    bcs = [DirichletBC(V, 0, 1), DirichletBC(V, g, 3)]
    found = {"a field": "heat", "a constant": "scale", "the boundary": "the boundary values on"}
    with pytest.raises(ConvergenceError, match=f"NaN or infinite values .* in: {found[where]}"):
        femnn.solve(F == 0, u, bcs)
    assert (u.dat.data_ro == 0.5).all()


def test_the_unknown_with_nan_is_not_blamed_on_the_data(V):
    u, v = Function(V).assign(np.nan), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    with pytest.raises(ConvergenceError, match="gave NaN or infinity"):
        femnn.solve(kappa * inner(grad(u), grad(v)) * dx == 0, u)


def test_an_error_in_a_network_reaches_the_caller(V):
    class Fails(torch.nn.Module):
        fails = False

        def forward(self, x):
            if self.fails:
                raise OverflowError("too hot")
            return 1 + x**2

    u, v, net = Function(V), TestFunction(V), Fails()
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    net.fails = True
    with pytest.raises(OverflowError, match="too hot"):
        solver.solve()
    assert (u.dat.data_ro == 0).all()
    net.fails = False
    femnn.solve(F == 0, u, problem.bcs)
    assert u.dat.data_ro.max() > 0.1


def test_only_conditions_of_firedrake(V):
    u, v = Function(V), TestFunction(V)
    F = femnn.NeuralCoefficient(mlp(), u) * inner(grad(u), grad(v)) * dx
    with pytest.raises(NotImplementedError, match="bcs holds a tuple: only DirichletBC and"):
        femnn.solve(F == 0, u, bcs=[DirichletBC(V, 0, 2), (V, 0, 1)])


@pytest.mark.parametrize("kind", ["bilinear", "functional", "expression", "zero", "equation"])
def test_the_residual_must_be_a_linear_form(kind, V):
    u, v, w = Function(V), TestFunction(V), TrialFunction(V)
    F = {
        "bilinear": lambda: w * v * dx,
        "functional": lambda: u * dx,
        "expression": lambda: u * v,
        "zero": lambda: 0,
        "equation": lambda: u * v * dx == 0,
    }[kind]()
    with pytest.raises(TypeError, match=r"F is .* and not a form with one test function: write"):
        femnn.NeuralVariationalProblem(F, u)


def test_wrong_equations_and_unknowns(V):
    u, v = Function(V), TestFunction(V)
    F = u * v * dx - v * dx
    with pytest.raises(TypeError, match="write the equation as F == 0, or as a == L"):
        femnn.solve(v * dx == F, u)
    with pytest.raises(TypeError, match="u is a Argument: the unknown must be a Function"):
        femnn.NeuralVariationalProblem(F, v)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    with pytest.raises(TypeError, match="u is a NeuralCoefficient: the unknown must be"):
        femnn.NeuralVariationalProblem(F, kappa)
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    with pytest.raises(TypeError, match=r"solve\(\) got the unknown keywords \['tolerance'\]"):
        solver.solve(tolerance=1e-3)


def test_nothing_is_recorded_without_annotation(V):
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    bc = DirichletBC(V, 0, "on_boundary")
    femnn.solve(F == 0, u, bc)
    continue_annotation()
    femnn.solve(F == 0, u, bc, annotate=False)
    femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u, bc)).solve(annotate=False)
    assert get_working_tape().get_blocks() == []
    femnn.solve(F == 0, u, bc)
    assert recorded_blocks() == ["SolveBlock"]
    pause_annotation()


class FailsOnTheLastRank(torch.nn.Module):
    """A law that raises an error on one rank, when told to."""

    armed = False

    def forward(self, x):
        if self.armed and COMM_WORLD.rank == COMM_WORLD.size - 1:
            raise ZeroDivisionError("inside the network")
        return 1 + x**2


@pytest.mark.parallel([1, 2, 3])
def test_an_error_inside_a_network_ends_all_ranks_and_the_solver_goes_on():
    net = FailsOnTheLastRank()
    V = FunctionSpace(UnitSquareMesh(6, 6), "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    net.armed = True
    with pytest.raises((ZeroDivisionError, RuntimeError), match=r"inside the network|another rank"):
        solver.solve()
    net.armed = False
    solver.solve()
    expected = Function(V)
    exact = (1 + expected**2) * inner(grad(expected), grad(v)) * dx(degree=4) - v * dx
    solve(exact == 0, expected, DirichletBC(V, 0, "on_boundary"))
    assert errornorm(expected, u) < 1e-10


class FailsGoingBack(torch.nn.Module):
    """A law whose backward pass raises an error on one rank, when told to."""

    armed = False

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x):
        y = 1 + self.factor * x**2
        if self.armed and y.requires_grad and COMM_WORLD.rank == COMM_WORLD.size - 1:
            y.register_hook(self.fail)
        return y

    def fail(self, gradient):
        raise ZeroDivisionError("going back")


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("implicit", [True, False], ids=["of u", "of x"])
def test_an_error_in_a_networks_derivatives_ends_all_ranks_and_the_tape_goes_on(implicit):
    net, V = FailsGoingBack(), FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    u, v, x = Function(V), TestFunction(V), SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(net, u if implicit else x[0])
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    weights, J = kappa.weights, femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(weights))
    expected = [*Jhat.derivative().vector, *Jhat.hessian(weights).vector]
    for ask in (Jhat.derivative, lambda: Jhat.hessian(weights)):
        net.armed = True
        with pytest.raises((ZeroDivisionError, RuntimeError), match=r"going back|another rank"):
            ask()
        net.armed = False
        found = [*Jhat.derivative().vector, *Jhat.hessian(weights).vector]
        assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("name", ["pre_function", "post_function", "pre_jacobian", "post_jacobian"])
def test_what_a_callback_of_the_solver_raises_on_one_rank_is_raised_on_all(name):
    V, faults = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1), [True]
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)

    def callback(*args):
        if faults[0] and COMM_WORLD.rank == COMM_WORLD.size - 1:
            raise ZeroDivisionError("in a callback")

    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem, **{f"{name}_callback": callback})
    with pytest.raises((ZeroDivisionError, RuntimeError), match=r"in a callback|another rank"):
        solver.solve()
    faults[0] = False
    solver.solve()
    assert norm(u) > 0


class BrokenOnOneRank(torch.nn.Module):
    """Raises an error on the last rank."""

    def forward(self, x):
        if MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1:
            raise RuntimeError("no such file")
        return x


@pytest.mark.parallel([1, 2])
def test_a_network_that_raises_on_one_rank_makes_no_coefficient_on_any():
    mesh = UnitSquareMesh(3, 3)
    last = MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1
    kind, message = (ValueError, "no such file") if last else (RuntimeError, "on another rank")
    with pytest.raises(kind, match=message):
        femnn.NeuralCoefficient(BrokenOnOneRank(), SpatialCoordinate(mesh)[0])
    assert femnn.assemble(Constant(1.0) * dx(domain=mesh)) == pytest.approx(1)
