"""Functionals that are linear in a field: found as such, and only these."""

import contextlib
import io

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.coefficient.functionals import KeptFunctional
from femnn.fields.linear import linear_in


@pytest.fixture(scope="module")
def fields():
    mesh = UnitSquareMesh(4, 4)
    V, W = FunctionSpace(mesh, "CG", 1), VectorFunctionSpace(mesh, "CG", 1)
    found = {"u": Function(V), "f": Function(V), "w": Function(W), "m": Function(V * W)}
    random = np.random.default_rng(0)
    for field in found.values():
        for part in field.subfunctions:
            part.dat.data_wo[...] = random.uniform(1, 2, part.dat.data_ro.shape)
    return {**found, "r": Function(FunctionSpace(mesh, "R", 0)).assign(2.0), "c": Constant(3.0)}


# A functional, and in which fields it is linear without a constant term.
FORMS = {
    "product": (lambda u, f, **_: f * u * dx, "uf"),
    "facets": (lambda u, c, **_: c * u * ds(1), "u"),
    "both sides": (lambda u, f, **_: jump(u) * avg(f) * dS + u * f * dx, "uf"),
    "gradient": (lambda u, w, **_: inner(grad(u), w) * dx, "uw"),
    "vector": (lambda u, w, **_: inner(as_vector([u, 0]), w) * dx, "uw"),
    "mixed": (lambda m, **_: (split(m)[0] + div(split(m)[1])) * dx, "m"),
    "real": (lambda u, r, **_: r * u * dx, "u"),
    "square": (lambda u, **_: u**2 * dx, ""),
    "constant term": (lambda u, **_: (u + 1) * dx, ""),
    "constant elsewhere": (lambda u, f, **_: u * dx + f * ds, ""),
    "constant entry": (lambda u, w, **_: inner(as_vector([u, 5]), w) * dx, "w"),
    "root": (lambda u, f, **_: f * sqrt(u) * dx, "f"),
    "sign": (lambda u, f, **_: f * sign(u) * dx, "f"),
    "switch": (lambda u, f, **_: conditional(gt(u, 1.5), f, u) * dx, ""),
    "denominator": (lambda u, f, **_: f / u * dx, "f"),
}


@pytest.mark.parametrize("name", FORMS)
def test_found_where_it_is_one(name, fields):
    make, expected = FORMS[name]
    form = make(**fields)
    named = {n: f for n, f in fields.items() if isinstance(f, Function) and n in "ufwmr"}
    present = [n for n, f in named.items() if f in form.coefficients()]
    found = linear_in(form, [named[n] for n in present])
    assert {n for n in present if named[n] in found} == set(expected)
    for field, functional in found.items():
        assert functional.value() == pytest.approx(assemble(form), rel=1e-13)
        exact = assemble(derivative(form, field))
        for a, b in zip(functional.vector().dat, exact.dat, strict=True):
            np.testing.assert_allclose(a.data_ro, b.data_ro, 0, 1e-14)


@pytest.mark.parallel([1, 2])
def test_follows_other_values_and_the_mesh():
    mesh = UnitSquareMesh(5, 5)
    V = FunctionSpace(mesh, "CG", 1)
    x, _ = SpatialCoordinate(mesh)
    u, f, c = Function(V).interpolate(x), Function(V).assign(1.0), Constant(2.0)
    form = c * f * u * dx
    kept = KeptFunctional(form)
    changes = [
        lambda: u.interpolate(x**2),
        lambda: f.interpolate(1 + x),
        lambda: c.assign(5.0),
        lambda: mesh.coordinates.assign(2 * mesh.coordinates),
    ]
    for change in changes:
        change()
        assert kept.value({}) == pytest.approx(assemble(form), rel=1e-13)
        for field in (u, f):
            found, exact = kept.derivative(field, {}, {}), assemble(derivative(form, field))
            np.testing.assert_allclose(found.dat.data_ro, exact.dat.data_ro, 0, 1e-13)
            found.dat.zero()  # a new one each time


def test_taylor_and_second_order():
    mesh = UnitSquareMesh(5, 5)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    u, f = Function(V).interpolate(1 + x), Function(V).interpolate(y)
    with set_working_tape() as tape:
        continue_annotation()
        J = femnn.assemble(f * u * dx) ** 2
        pause_annotation()
        Jhat = ReducedFunctional(J, [Control(u), Control(f)], tape=tape)
    at = [Function(V).interpolate(x * y), Function(V).interpolate(1 + y)]
    along = [Function(V).interpolate(1 - x), Function(V).interpolate(x)]
    with contextlib.redirect_stdout(io.StringIO()):
        rates = taylor_to_dict(Jhat, at, along)
    assert min(rates["R1"]["Rate"]) > 1.95
    assert min(rates["R2"]["Rate"]) > 2.95


def test_what_is_interpolated_inside_a_form_has_a_value_and_no_silent_zero_for_a_derivative():
    mesh = UnitSquareMesh(2, 2)
    V, Q = (FunctionSpace(mesh, "CG", degree) for degree in (1, 2))
    x, y = SpatialCoordinate(mesh)
    f, g = Function(V).interpolate(x), Function(Q).interpolate(y)
    with set_working_tape() as tape:
        continue_annotation()
        J = femnn.assemble(interpolate(f, Q) * g * dx)
        pause_annotation()
        assert np.isclose(J, 0.25, rtol=1e-12)
        found = ReducedFunctional(J, Control(g), tape=tape).derivative()
        expected = assemble(f * TestFunction(Q) * dx)
        assert np.allclose(found.dat.data_ro, expected.dat.data_ro, rtol=1e-12, atol=1e-15)
        with pytest.raises(NotImplementedError, match="interpolate before"):
            ReducedFunctional(J, Control(f), tape=tape).derivative()
