"""The comparison of schemes: measured, and without a trace."""

import numpy as np
import pytest
from firedrake import *

import femnn
from tests.verification.problems import TIGHT


class Bistable(femnn.MLP):
    """A reaction of known rate."""

    def __init__(self, rate):
        super().__init__(1, 2, 1)
        self.rate = rate

    def forward(self, x):
        return self.rate * x * (1 - x) * (x - 0.3)


def schemes(rate, dt, kind=femnn.StrangSplitting):
    mesh = UnitIntervalMesh(20)
    V = FunctionSpace(mesh, "CG", 1)
    (x,) = SpatialCoordinate(mesh)
    net, made = Bistable(rate), []
    for split in (False, True):
        u, un, v = Function(V), Function(V), TestFunction(V)
        u.interpolate(0.5 + 0.45 * cos(3 * np.pi * x))
        length, t = Constant(dt), Constant(0.0)
        middle = (u + un) / 2
        F = (u - un) / length * v * dx + 0.1 * inner(grad(middle), grad(v)) * dx
        if not split:
            F -= femnn.NeuralCoefficient(net, middle, degree=4) * v * dx
        solver = femnn.NeuralVariationalSolver(
            femnn.NeuralVariationalProblem(F, u), solver_parameters=TIGHT
        )
        if split:
            made.append(kind(solver, un, net, dt=length, method="sdirk2", substeps=10))
        else:
            made.append(femnn.ImplicitStep(solver, un, dt=length, time=t))
    return made


def norms(f):
    return float(norm(f))


@pytest.mark.parallel([1, 2, 3])
def test_orders_errors_and_iterations_are_measured_and_nothing_changes():
    made = schemes(5.0, 0.01)
    before = [norms(s.solution[0]) for s in made]
    comparison = femnn.compare_schemes(*made, steps=4)
    implicit, strang = comparison.costs
    assert implicit.order == pytest.approx(2, abs=0.1)
    assert strang.order == pytest.approx(2, abs=0.1)
    assert implicit.newton_iterations >= 2
    assert strang.newton_iterations == 1
    assert strang.stiffness == pytest.approx(0.5 * 0.01 * 5.0 * 0.54, rel=0.2)
    assert [norms(s.solution[0]) for s in made] == before
    assert [float(s.dt) for s in made] == [0.01, 0.01]
    assert float(made[0].time) == 0.0


def test_the_error_is_that_against_many_short_steps():
    made = schemes(5.0, 0.01)
    comparison = femnn.compare_schemes(*made, steps=4)
    references = schemes(5.0, 0.04 / 32)  # their limits differ: nodes and quadrature points
    for scheme, reference, cost in zip(made, references, comparison.costs, strict=True):
        for _ in range(32):
            reference.step()
        for _ in range(4):
            scheme.step()
        exact = reference.solution[0].dat.data_ro
        mine = scheme.solution[0].dat.data_ro
        error = np.linalg.norm(mine - exact) / np.linalg.norm(exact)
        assert cost.error == pytest.approx(error, rel=0.3)


def test_a_first_order_scheme_is_told_from_a_second_order_one():
    _, lie = schemes(5.0, 0.01, femnn.LieSplitting)
    assert femnn.compare_schemes(lie, steps=4).costs[0].order == pytest.approx(1, abs=0.15)


def test_where_newton_fails_splitting_is_the_choice():
    comparison = femnn.compare_schemes(*schemes(5000.0, 0.01), steps=4)
    assert comparison.best == 1
    assert comparison.costs[0].seconds == np.inf
    assert "ImplicitStep       does not converge with this step" in str(comparison)
    assert str(comparison).endswith("StrangSplitting is the better choice.")
