"""What users do with a Firedrake Function, done with a coefficient: it works or says what does."""

from copy import deepcopy

import numpy as np
import pytest
import ufl
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


@pytest.fixture(scope="module")
def V():
    return FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)


def wave(V, name="wave"):
    x = SpatialCoordinate(V.mesh())
    return Function(V, name=name).interpolate(sin(2 * x[0]) + x[1] ** 2 * x[0])


def mlp(n_inputs, n_outputs=1, seed=1, **options):
    return femnn.MLP(n_inputs, 5, n_outputs, seed=seed, **options)


# Derivatives in space


@pytest.mark.parametrize(
    "integrand",
    [
        lambda k, u: inner(grad(k), grad(k) + grad(u)),
        lambda k, u: k.dx(0) * u + nabla_grad(k)[1],
        lambda k, u: inner(grad(k * u), grad(u)) + k * u.dx(1),
        lambda k, u: div(k * grad(u)) + div(as_vector([k, 2 * k])),
    ],
    ids=["grad", "dx", "product", "div"],
)
def test_gradients_in_space_are_those_of_the_network_written_out(V, integrand):
    u, (x, _) = wave(V), SpatialCoordinate(V.mesh())
    net = mlp(2)
    (written,) = femnn.to_ufl(net, u, x)
    for measure in (dx(degree=4), ds(degree=4)):
        k = femnn.NeuralCoefficient(net, u, x, measure=measure)
        expected = assemble(integrand(written, u) * measure)
        got = femnn.assemble(integrand(k, u) * measure)
        assert got == pytest.approx(expected, rel=1e-12)
        assert abs(got) > 1e-3


def test_a_gradient_in_space_of_the_unknowns_law(V):
    """Solution and gradient, against the network written out."""
    x, y = SpatialCoordinate(V.mesh())
    results = []
    for written in (False, True):
        get_working_tape().clear_tape()
        net = mlp(1, output="softplus")
        u, v, f = Function(V), TestFunction(V), Function(V).interpolate(5 + x)
        k = femnn.to_ufl(net, u)[0] if written else femnn.NeuralCoefficient(net, u)
        m = dx(degree=4)
        continue_annotation()
        F = inner(grad(u), grad(v)) * m + inner(grad(k), grad(u)) * v * m - f * v * m
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
        J = femnn.assemble((u - x * y) ** 2 * dx)
        pause_annotation()
        gradient = ReducedFunctional(J, Control(f)).derivative().dat.data_ro.copy()
        results.append((u.dat.data_ro.copy(), gradient))
    for got, expected in zip(*results, strict=True):
        assert np.allclose(got, expected, rtol=1e-8, atol=1e-12)
        assert np.abs(expected).max() > 1e-4


def test_derivatives_in_space_that_there_are_not(V):
    u = wave(V)
    k = femnn.NeuralCoefficient(mlp(1), u, name="k")
    with pytest.raises(NotImplementedError, match="k stands under two derivatives in space: only"):
        femnn.assemble(div(grad(k)) * dx)
    pair = femnn.NeuralCoefficient(mlp(1, 2), u, name="pair")
    with pytest.raises(NotImplementedError, match=r"pair.grad\(\): only for one output"):
        femnn.assemble(div(pair) * dx)


# Interior facets


def test_a_law_between_cells_needs_no_side():
    mesh = UnitSquareMesh(3, 3)
    x, y = SpatialCoordinate(mesh)
    V = FunctionSpace(mesh, "DG", 1)
    solutions = []
    for side in (lambda k: k("+"), lambda k: k):
        u, v = Function(V).interpolate(x * y), TestFunction(V)
        k = femnn.NeuralCoefficient(mlp(1, output="softplus"), avg(u), measure=dS)
        u.dat.data_wo[::2] += 0.1
        start = femnn.assemble(side(k) * jump(u) ** 2 * dS + (k * u)("-") * dS)
        F = (u + u**3 - x) * v * dx + side(k) * jump(u + u**3) * jump(v) * dS
        femnn.solve(F == 0, u, solver_parameters=TIGHT)
        solutions.append([start, *u.dat.data_ro])
    assert np.allclose(*solutions, rtol=1e-11, atol=1e-13)


# Values at other places


def test_values_between_quadrature_points_are_refused(V, tmp_path):
    k = femnn.NeuralCoefficient(mlp(1), wave(V), name="k").update()
    for ask in (lambda: k.at([0.3, 0.3]), lambda: k((0.3, 0.3))):
        with pytest.raises(NotImplementedError, match=r"at quadrature points, .*space=V"):
            ask()
    for ask in (
        lambda: femnn.assemble(interpolate(k, V)),
        lambda: Function(V).interpolate(2 * k + 1),
        lambda: DirichletBC(V, 2 * k, 1),
        lambda: VTKFile(tmp_path / "k.pvd").write(k),
        lambda: VTKFile(tmp_path / "both.pvd").write(k.operands[0], k),
        lambda: PointEvaluator(V.mesh(), [[0.3, 0.3]]).evaluate(k),
    ):
        with pytest.raises(ValueError, match=r"values of k are at quadrature points, .*space=V"):
            ask()


def test_values_at_the_same_points_are_interpolated(V):
    k = femnn.NeuralCoefficient(mlp(1), wave(V)).update()
    twice = Function(k.function_space()).interpolate(2 * k)
    assert np.array_equal(twice.dat.data_ro, 2 * k.dat.data_ro)


def test_the_way_that_the_errors_name(V, tmp_path):
    """A coefficient at nodes is a field: points, files and interpolation take it."""
    u = wave(V)
    net = mlp(1)
    field = femnn.NeuralCoefficient(net, u, space=V, name="field").update()
    expected = Function(V).interpolate(femnn.to_ufl(net, u)[0])
    with pytest.warns(FutureWarning, match="deprecated"):
        assert field.at([0.3, 0.4]) == pytest.approx(float(expected.at([0.3, 0.4])), rel=1e-12)
    assert (
        errornorm(Function(V).interpolate(2 * expected), Function(V).interpolate(2 * field)) < 1e-13
    )
    VTKFile(tmp_path / "field.pvd").write(field)
    smooth = project(femnn.NeuralCoefficient(net, u).update(), V)
    assert errornorm(expected, smooth) < 0.02 * norm(expected)


# Values, parts and copies


@pytest.mark.parametrize(
    "change",
    [
        lambda k, f: k.assign(7),
        lambda k, f: k.assign(f),
        lambda k, f: k.interpolate(f),
        lambda k, f: k.project(f),
        lambda k, f: k.zero(),
        lambda k, f: k.__iadd__(f),
        lambda k, f: k.__imul__(2),
    ],
)
def test_values_are_not_taken(V, change):
    u = wave(V)
    k = femnn.NeuralCoefficient(mlp(1), u, space=V, name="law").update()
    before = k.dat.data_ro.copy()
    with pytest.raises(TypeError, match=r"law got values to take.*law.weights.assign"):
        change(k, u)
    assert np.array_equal(k.dat.data_ro, before)


def test_a_component_is_no_function(V):
    k = femnn.NeuralCoefficient(mlp(1, 2), wave(V), name="law")
    with pytest.raises(TypeError, match=r"law.sub\(1\): a component is no .* Write law\[1\]"):
        k.sub(1)
    k.update()
    assert np.array_equal(k.copy(deepcopy=True).sub(1).dat.data_ro, k.dat.data_ro[:, 1])


def test_a_deep_copy_is_a_law_with_weights_of_its_own(V):
    u = wave(V)
    k = femnn.NeuralCoefficient(mlp(1), u, degree=3, name="law")
    other = deepcopy(k)
    assert (other.degree, other.name(), other.operands) == (3, "law", (u,))
    before = femnn.assemble(k * dx)
    other.weights.assign(other.weights.vector + 0.3)
    assert femnn.assemble(k * dx) == before
    changed = femnn.assemble(other * dx)
    assert changed != pytest.approx(before, rel=1e-3)
    u.assign(2 * u)
    assert femnn.assemble(other * dx) != pytest.approx(changed, rel=1e-6)


@pytest.mark.parametrize("start", [lambda k: k, lambda k: 2 * k], ids=["itself", "expression"])
def test_a_recorded_assignment_of_a_law_at_nodes(V, start):
    """An initial state, by Taylor's test for the weights and a Function in the operand."""
    get_working_tape().clear_tape()
    f, u = wave(V), Function(V)
    k = femnn.NeuralCoefficient(mlp(1), f, space=V).update()
    continue_annotation()
    u.assign(start(k))
    Jhat = ReducedFunctional(femnn.assemble(u**3 * dx), [Control(k.weights), Control(f)])
    pause_annotation()
    away = [k.weights.like(1.1 * k.weights.vector), Function(V).assign(1.2)]
    assert taylor_test(Jhat, away, [k.weights.like(0 * k.weights.vector + 1), wave(V)]) > 1.95


# Other operands


@pytest.mark.parametrize("where", ["degree", "default", "measure", "space"])
def test_the_same_law_of_other_operands(V, where):
    u, w = wave(V), Function(V).interpolate(SpatialCoordinate(V.mesh())[0])
    given = {"degree": 3} if where == "degree" else {}
    given = {"measure": ds(degree=5)} if where == "measure" else given
    given = {"space": VectorFunctionSpace(V.mesh(), "CG", 1)} if where == "space" else given
    k = femnn.NeuralCoefficient(mlp(2, 2, output="exp"), u, w, name="law", **given)
    other = k.with_operands(as_vector([w, 2 * u]))
    assert other is not k
    assert other != k
    assert other.weights is k.weights
    same = ("degree", "ufl_shape", "has_default_degree", "measure")
    assert all(getattr(other, a) == getattr(k, a) for a in same)
    assert other.name() == "law"
    assert other.function_space() == k.function_space()
    m = ds if where == "measure" else dx
    expected = femnn.NeuralCoefficient(k.net, w, 2 * u, **given)
    assert femnn.assemble(other[0] * m) == femnn.assemble(expected[0] * m)
    assert femnn.assemble(other[0] * m) != femnn.assemble(k[0] * m)


def test_a_replaced_law_follows_weights_and_fields(V):
    """Of the theta scheme too, by Taylor's test for all that it depends on."""
    u, un, v = wave(V), Function(V, name="un").assign(0.3), TestFunction(V)
    k = femnn.NeuralCoefficient(mlp(1, output="softplus"), u)
    F = ((u - un) / 0.1 * v + k * inner(grad(u), grad(v)) - v) * dx(degree=4)
    F = ufl.replace(F, {u: 0.5 * u + 0.5 * un})
    continue_annotation()
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    Jhat = ReducedFunctional(femnn.assemble(u**2 * dx), [Control(k.weights), Control(un)])
    pause_annotation()
    point = [k.weights.like(k.weights.vector + 0.1), un.copy(deepcopy=True).assign(0.4)]
    h = np.random.default_rng(2).normal(size=len(k.weights))
    step = [k.weights.like(0.1 * h), un.copy(deepcopy=True).assign(0.1)]
    assert taylor_test(Jhat, point, step) > 1.95


def test_other_operands_of_another_number(V):
    k = femnn.NeuralCoefficient(mlp(1), wave(V), name="law")
    with pytest.raises(
        ValueError, match=r"law.with_operands\(\) got operands of 3 comp.* wanted 1"
    ):
        k.with_operands(k.operands[0], grad(k.operands[0]))


def test_a_replacement_reaches_the_operands(V):
    """A theta scheme, against the network written out; what does not change is the same."""
    u, un, v = wave(V), Function(V, name="un").assign(0.3), TestFunction(V)
    x, _ = SpatialCoordinate(V.mesh())
    net = mlp(1)
    k, fixed = femnn.NeuralCoefficient(net, u), femnn.NeuralCoefficient(net, x)
    (written,) = femnn.to_ufl(net, u)
    (known,) = femnn.to_ufl(net, x)
    middle = {u: 0.5 * u + 0.5 * un}

    def form(k, fixed):
        return (k * inner(grad(u), grad(v)) + fixed * u * v) * dx(degree=4)

    replaced = ufl.replace(form(k, fixed), middle)
    got = femnn.assemble(replaced).dat.data_ro
    expected = assemble(ufl.replace(form(written, known), middle)).dat.data_ro
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-14)
    assert fixed in replaced.coefficients()
    assert k not in replaced.coefficients()
    assert ufl.replace(form(k, fixed), middle) == replaced
