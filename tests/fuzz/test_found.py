"""What the machine has found, in short."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn


class Model:
    """A law of the unknown and a law of a field, recorded on a cleared tape as in a notebook."""

    def __init__(self):
        mesh = UnitIntervalMesh(5)
        V = FunctionSpace(mesh, "CG", 1)
        self.u, v = Function(V, name="u"), TestFunction(V)
        self.c = Constant(1.0, name="c")
        self.m = Function(V, name="m").interpolate(1 + SpatialCoordinate(mesh)[0])
        self.law = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus"), self.u)
        self.source = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=1), self.m)
        k = 1 + self.law
        self.F = k * inner(grad(self.u), grad(v)) * dx - (self.c**2 + self.source) * v * dx
        self.bc = DirichletBC(V, 0, 1)
        self.controls = [self.law.weights, self.source.weights, self.c, self.m]

    def record(self):
        get_working_tape().clear_tape()
        self.u.assign(0)
        continue_annotation()
        femnn.solve(self.F == 0, self.u, self.bc, solver_parameters={"snes_rtol": 1e-12})
        J = femnn.assemble(self.u**2 * self.m * dx)
        pause_annotation()
        return ReducedFunctional(J, [Control(m) for m in self.controls])

    def gradients(self, Jhat):
        weights, others, c, m = Jhat.derivative()
        return [weights.vector, others.vector, c.dat.data_ro.copy(), m.dat.data_ro.copy()]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other, rtol=1e-8, atol=1e-12)


def test_recording_anew_after_an_evaluation_elsewhere_is_at_present_values():
    model = Model()
    expected = model.gradients(model.record())
    weights, others, _, m = model.controls
    away = [w.like(1.5 * w.vector) for w in (weights, others)]
    model.record()([*away, Constant(2.0), Function(m.function_space()).assign(3.0)])
    assert_same(model.gradients(model.record()), expected)


@pytest.mark.parametrize("change", ["c", "m", "law", "source"])
def test_recording_anew_after_a_change_that_was_not_recorded(change):
    model, other = Model(), Model()
    model.record()
    for changed in (model, other):
        value = getattr(changed, change)
        if change in ("c", "m"):
            value.assign(1.7)
        else:
            value.weights.assign(0.5 * value.weights.vector)
    assert_same(model.gradients(model.record()), model.gradients(other.record()))


def test_fields_changed_in_place_in_each_step_of_a_recorded_loop():
    mesh = UnitIntervalMesh(5)
    V = FunctionSpace(mesh, "CG", 1)
    u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
    f, g, c = Function(V, name="f"), Function(V, name="g"), Constant(1.0, name="c")
    law = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus"), u)
    source = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=1), g)
    F = (10 * (u - un) + law * u - c * f - source) * v * dx
    options = {"snes_rtol": 1e-12}
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u), solver_parameters=options
    )

    def model():
        J = 0
        with stop_annotating():
            u.assign(0)
        for step in range(3):
            f.dat.data[:] = 1 + step**2
            g.dat.data[:] = 0.5 * step
            un.assign(u)
            solver.solve()
            J += femnn.assemble(u**2 * f * dx)
        return J

    continue_annotation()
    J = model()
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(law.weights), Control(c)])
    away = [law.weights.like(1.2 * law.weights.vector), Constant(1.3)]
    found = Jhat(away)
    law.weights.assign(away[0])
    c.assign(1.3)
    assert np.isclose(found, model(), rtol=1e-10)
