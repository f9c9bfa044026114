"""Components and parts of Functions, and operands that jump: right, or an error with the cure."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(3, 3)


def law(*operands, **options):
    n_inputs = sum(int(np.prod(o.ufl_shape, dtype=int)) for o in operands)
    net = femnn.MLP(n_inputs, 4, 1, output="softplus", seed=1)
    return femnn.NeuralCoefficient(net, *operands, name="law", **options)


# Components of vectors


@pytest.mark.parametrize(
    "use",
    [
        lambda F, g0, u, v: femnn.solve(F - g0 * v * dx == 0, u),
        lambda F, g0, u, v: femnn.solve(F - law(g0) * v * dx == 0, u),
        lambda F, g0, u, v: femnn.solve(F - law(u, g0) * v * dx == 0, u),
        lambda F, g0, u, v: femnn.assemble(g0**2 * dx),
    ],
    ids=["form", "operand", "operand of u", "functional"],
)
def test_a_component_as_a_function_is_refused(mesh, use):
    V, W = FunctionSpace(mesh, "CG", 1), VectorFunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    g = Function(W, name="g").interpolate(as_vector([x * y, 1 + y]))
    u, v = Function(V), TestFunction(V)
    F = inner(grad(u), grad(v)) * dx + u * v * dx
    continue_annotation()
    with pytest.raises(NotImplementedError, match=r"\(g\) is a component of .* write g\[0\]"):
        use(F, g.sub(0), u, v)
    pause_annotation()


def test_components_by_index_are_right(mesh):
    V, W = FunctionSpace(mesh, "CG", 1), VectorFunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    g = Function(W, name="g").interpolate(as_vector([x * y, 1 + y]))
    u, v = Function(V), TestFunction(V)
    femnn.solve(inner(grad(u), grad(v)) * dx + u * v * dx - g[0] * v * dx == 0, u)
    expected, w = Function(V), TrialFunction(V)
    right = Function(V).interpolate(x * y)
    solve(inner(grad(w), grad(v)) * dx + w * v * dx == right * v * dx, expected)
    assert errornorm(expected, u) < 1e-10
    assert norm(u) == pytest.approx(0.2413824, rel=1e-6)


# Parts of mixed unknowns


@pytest.mark.parametrize("part", [lambda w: w.subfunctions[0], lambda w: w.sub(0)])
@pytest.mark.parametrize("place", ["form", "operand"])
def test_a_part_of_the_unknown_as_a_function_is_refused(mesh, place, part):
    V = FunctionSpace(mesh, "CG", 1)
    M = V * V
    w, test = Function(M, name="w"), TestFunction(M)
    a = part(w)
    F = inner(grad(w), grad(test)) * dx + inner(w, test) * dx - (test[0] + test[1]) * dx
    F += (a**2 if place == "form" else law(a)) * test[0] * dx
    with pytest.raises(ValueError, match=r"part 0 of the unknown w .* write split\(u\)\[0\]"):
        femnn.solve(F == 0, w)


def test_a_part_of_another_function_is_an_operand(mesh):
    """Values, and the gradient for the whole."""
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    values, gradients = [], []
    for part in (lambda w: w.subfunctions[0], lambda w: split(w)[0]):
        get_working_tape().clear_tape()
        w = Function(V * V, name="w")
        w.subfunctions[0].interpolate(x * y)
        u, v = Function(V), TestFunction(V)
        continue_annotation()
        F = law(u, part(w)) * inner(grad(u), grad(v)) * dx - 10 * part(w) * v * dx
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
        J = femnn.assemble(u**2 * dx)
        pause_annotation()
        values.append(J)
        gradients.append(ReducedFunctional(J, Control(w)).derivative().dat[0].data_ro.copy())
    assert values[0] == pytest.approx(values[1], rel=1e-10)
    assert np.allclose(*gradients, rtol=1e-8, atol=1e-12)
    assert np.abs(gradients[0]).max() > 1e-4


# Operands that jump where cells share a node


@pytest.mark.parametrize(
    "operand",
    [
        lambda m, V: Function(FunctionSpace(m, "DG", 1)),
        lambda m, V: Function(V).dx(0),
        lambda m, V: grad(Function(V)),
        lambda m, V: 2 * CellVolume(m) + Function(V),
        lambda m, V: split(Function(V * FunctionSpace(m, "DG", 0)))[1],
        lambda m, V: Function(FunctionSpace(m, "RT", 1)),
    ],
    ids=["DG", "dx", "grad", "volume", "mixed", "RT"],
)
def test_operands_that_jump_at_the_nodes_are_refused(mesh, operand):
    V = FunctionSpace(mesh, "CG", 1)
    with pytest.raises(ValueError, match=r"differs between the cells .* project it to a cont"):
        law(operand(mesh, V), space=V)
    net = femnn.MLP(1 + int(np.prod(operand(mesh, V).ufl_shape, dtype=int)), 4, 1)
    with pytest.raises(ValueError, match=r"differs between the cells"):
        femnn.PointwiseODE(net, Function(V), operand(mesh, V), dt=Constant(0.1))


@pytest.mark.parametrize(
    ("operand", "family"),
    [
        (lambda m: Function(FunctionSpace(m, "DG", 1)), "DG"),
        (lambda m: Function(FunctionSpace(m, "CG", 2)).dx(0), "DG"),
        (lambda m: Function(FunctionSpace(m, "CG", 2)) ** 2, "CG"),
        (lambda m: SpatialCoordinate(m), "CG"),
        (lambda m: Function(FunctionSpace(m, "R", 0)), "CG"),
        (lambda m: split(Function(FunctionSpace(m, "CG", 1) * FunctionSpace(m, "DG", 0)))[0], "CG"),
        (
            lambda m: split(Function(VectorFunctionSpace(m, "CG", 2) * FunctionSpace(m, "DG", 0)))[
                0
            ],
            "CG",
        ),
    ],
)
def test_operands_with_one_value_at_each_node(mesh, operand, family):
    V = FunctionSpace(mesh, family, 1)
    k = law(operand(mesh), space=V).update()
    assert np.isfinite(k.dat.data_ro).all()


def test_gradients_of_nodal_values_of_a_discontinuous_field():
    """At a discontinuous space's nodes, where the error sends: right."""
    mesh = UnitSquareMesh(2, 2)
    D = FunctionSpace(mesh, "DG", 1)
    x, y = SpatialCoordinate(mesh)
    f = Function(D, name="f").interpolate(x + y)
    f.dat.data_wo[::2] += 0.3
    continue_annotation()
    k = law(f, space=D)
    J = femnn.assemble(k**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(f))
    gradient = Jhat.derivative().dat.data_ro.copy()
    h = 1e-6
    step = Function(D).interpolate(cos(5 * x) + y)
    above, below = (Jhat(Function(D).assign(f + s * h * step)) for s in (1, -1))
    assert gradient @ step.dat.data_ro == pytest.approx((above - below) / (2 * h), rel=1e-6)
