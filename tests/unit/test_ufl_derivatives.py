"""UFL's own derivatives reach the operands of coefficients; the oracle is the network in UFL."""

import contextlib
import io

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


@pytest.fixture(scope="module")
def V():
    return FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)


def nets():
    return femnn.MLP(1, 5, 1, output="softplus", seed=1), femnn.MLP(3, 4, 2, seed=2)


def filled(V, name):
    x, y = SpatialCoordinate(V.mesh())
    return Function(V, name=name).interpolate(sin(3 * x) + x * y)


def pairs(u):
    """Laws of u as coefficients and written out, at the same degree."""
    one, two = nets()
    scalar = femnn.NeuralCoefficient(one, inner(grad(u), grad(u)), degree=4)
    vector = femnn.NeuralCoefficient(two, u, grad(u), degree=4)
    written = (
        femnn.to_ufl(one, inner(grad(u), grad(u)))[0],
        as_vector(femnn.to_ufl(two, u, u.dx(0), u.dx(1))),
    )
    return (scalar, vector), written


def numbers(assembled):
    return assembled.petscmat[:, :] if hasattr(assembled, "petscmat") else assembled.dat.data_ro


FORMS = {
    "energy": lambda u, v, k, g: derivative((k + u * dot(g, g)) * dx(degree=4), u, v),
    "second": lambda u, v, k, g: derivative(
        derivative(k * dx(degree=4), u, v), u, TrialFunction(v.function_space())
    ),
    "part": lambda u, v, k, g: 2 * derivative(k * u * dx(degree=4), u, v) - u * v * dx(degree=4),
    "action": lambda u, v, k, g: action(
        derivative(g[0] * v * dx(degree=4), u), filled(v.function_space(), "w")
    ),
    "functional": lambda u, v, k, g: derivative(k * dot(g, g) * dx(degree=4), u),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_derivatives_of_forms(make, V):
    u, v = filled(V, "u"), TestFunction(V)
    laws, written = pairs(u)
    found, expected = femnn.assemble(make(u, v, *laws)), assemble(make(u, v, *written))
    arrays = [
        f.petscmat[:, :] if hasattr(f, "petscmat") else f.dat.data_ro for f in (found, expected)
    ]
    assert np.abs(arrays[1]).max() > 1e-3
    assert np.allclose(*arrays, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", ["scalar", "vector", "tensor"])
def test_derivatives_by_a_variable(kind, V):
    """Stresses from an energy: dpsi / dF by ``diff``."""
    u, v = filled(V, "u"), TestFunction(V)
    one, _ = nets()
    if kind == "scalar":
        F, net = variable(u), one
        inputs, test = (F**2,), v
    elif kind == "vector":
        F, net = variable(grad(u)), one
        inputs, test = (inner(F, F),), grad(v)
    else:
        F, net = variable(outer(grad(u), grad(u))), femnn.MLP(1, 4, 2, seed=3)
        inputs, test = (tr(F),), outer(grad(v), as_vector([1, 2]))
    law = femnn.NeuralCoefficient(net, *inputs, degree=4)
    written = femnn.to_ufl(net, *inputs)
    written = written[0] if len(written) == 1 else as_vector(written)
    parts = (0, 1) if kind == "tensor" else ((),)
    for part in parts:
        found = femnn.assemble(
            inner(diff(law[part] if part != () else law, F), test) * dx(degree=4)
        )
        exact = inner(diff(written[part] if part != () else written, F), test) * dx(degree=4)
        expected = assemble(exact)
        assert np.abs(expected.dat.data_ro).max() > 1e-3
        assert np.allclose(found.dat.data_ro, expected.dat.data_ro, rtol=1e-11, atol=1e-13)


def energy(u, psi):
    return derivative((psi + inner(grad(u), grad(u))) * dx(degree=4) - 3 * u * dx(degree=4), u)


def test_an_energys_minimum_and_its_gradient(V):
    one, _ = nets()
    u, exact = Function(V), Function(V)
    bc = DirichletBC(V, 0, "on_boundary")
    psi = femnn.NeuralCoefficient(one, inner(grad(u), grad(u)), degree=4)
    continue_annotation()
    femnn.solve(energy(u, psi) == 0, u, bc, solver_parameters=TIGHT)
    J = femnn.assemble(psi * dx + u**2 * dx)
    pause_annotation()
    F = energy(exact, femnn.to_ufl(one, inner(grad(exact), grad(exact)))[0])
    solve(F == 0, exact, bc, solver_parameters=TIGHT)
    assert np.allclose(u.dat.data_ro, exact.dat.data_ro, rtol=1e-10, atol=1e-13)
    Jhat = ReducedFunctional(J, Control(psi.weights))
    away = psi.weights.like(psi.weights.vector + 0.1)
    entries = np.random.default_rng(1).standard_normal(len(psi.weights))
    direction = psi.weights.like(0.2 * entries)
    with contextlib.redirect_stdout(io.StringIO()):
        orders = taylor_to_dict(Jhat, away, direction)
    assert min(orders["R1"]["Rate"]) > 1.95
    assert min(orders["R2"]["Rate"]) > 2.9


def test_an_energy_given_as_a_linear_problem(V):
    """A quadratic energy with a law of x: ``lhs`` and ``rhs`` of its derivative."""
    net = femnn.MLP(2, 4, 1, output="softplus", seed=4)
    u, v, w = Function(V), TestFunction(V), TrialFunction(V)
    k = femnn.NeuralCoefficient(net, *SpatialCoordinate(V.mesh()), degree=4)
    F = derivative(0.5 * k * inner(grad(u), grad(u)) * dx - u * dx, u, v)
    linear = replace(F, {u: w})
    femnn.solve(lhs(linear) == rhs(linear), u, DirichletBC(V, 0, "on_boundary"))
    expected = Function(V)
    plain = k * inner(grad(expected), grad(v)) * dx - v * dx
    femnn.solve(plain == 0, expected, DirichletBC(V, 0, "on_boundary"))
    assert np.allclose(u.dat.data_ro, expected.dat.data_ro, rtol=1e-8, atol=1e-12)


def test_what_cannot_be_differentiated_through_says_so(V):
    u = filled(V, "u")
    one, _ = nets()
    k = femnn.NeuralCoefficient(one, u, degree=4, name="k")
    with pytest.raises(
        NotImplementedError, match=r"k stands under a derivative in space.*k.grad\(\)"
    ):
        femnn.assemble(derivative(dot(grad(k), grad(k)) * dx, u))
    between = femnn.NeuralCoefficient(one, avg(u), measure=dS, degree=4)
    with pytest.raises(NotImplementedError, match="on interior facets, and a derivative"):
        femnn.assemble(derivative(between * dS, u))
