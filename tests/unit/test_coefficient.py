"""NeuralCoefficient: degrees, shapes, values, what is refused, and what stays untouched."""

import numpy as np
import pytest
import torch
from finat.ufl import FiniteElement
from firedrake import *
from firedrake.adjoint import *
from ufl.classes import Expr

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(4, 3)


@pytest.fixture(scope="module")
def V(mesh):
    return FunctionSpace(mesh, "CG", 1)


def wave(V, name="wave"):
    x = SpatialCoordinate(V.mesh())
    return Function(V, name=name).interpolate(sin(2 * x[0]) + x[1] ** 2 * x[0])


def mlp(n_inputs, n_outputs=1, seed=1, **options):
    return femnn.MLP(n_inputs, 5, n_outputs, seed=seed, **options)


def at_points(expression, coefficient):
    """A UFL expression at a coefficient's points, by Firedrake's interpolation alone."""
    space = FunctionSpace(coefficient.mesh, "Quadrature", coefficient.degree)
    components = (
        [expression]
        if expression.ufl_shape == ()
        else [expression[i] for i in np.ndindex(expression.ufl_shape)]
    )
    return np.stack([Function(space).interpolate(c).dat.data_ro for c in components], axis=1)


# Degrees


@pytest.mark.parametrize(
    ("family", "degree", "expected"),
    [("CG", 1, 4), ("CG", 2, 6), ("CG", 3, 8), ("DG", 0, 4), ("DG", 2, 6), ("R", 0, 4)],
)
def test_default_degree(mesh, family, degree, expected):
    u = Function(FunctionSpace(mesh, family, degree))
    assert femnn.NeuralCoefficient(mlp(1), u).degree == expected
    assert femnn.NeuralCoefficient(mlp(3), u, grad(u)).degree == expected


def test_default_degree_takes_the_highest(mesh):
    x, y = SpatialCoordinate(mesh)
    u, w = (Function(FunctionSpace(mesh, "CG", p)) for p in (1, 3))
    assert femnn.NeuralCoefficient(mlp(2), x, y).degree == 4
    assert femnn.NeuralCoefficient(mlp(3), u, x, w).degree == 8
    assert femnn.NeuralCoefficient(mlp(1), Constant(1.0), mesh=mesh).degree == 4
    assert femnn.NeuralCoefficient(mlp(1), u, degree=7).degree == 7
    mixed = FunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    assert femnn.NeuralCoefficient(mlp(1), split(Function(mixed))[1]).degree == 6


def test_default_degree_of_other_cells():
    square = UnitSquareMesh(2, 2, quadrilateral=True)
    assert femnn.NeuralCoefficient(mlp(1), Function(FunctionSpace(square, "CG", 2))).degree == 6
    flat = UnitSquareMesh(2, 2)
    curved = Mesh(Function(VectorFunctionSpace(flat, "CG", 2)).interpolate(SpatialCoordinate(flat)))
    assert femnn.NeuralCoefficient(mlp(2), *SpatialCoordinate(curved)).degree == 6


def test_integrals_without_coefficients_keep_their_degree(V):
    """Firedrake alone gives the rule of values at points to all integrals of a form."""
    u = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u, degree=2)
    points = Function(FunctionSpace(V.mesh(), "Quadrature", 3)).interpolate(u)
    apart = assemble(u**6 * dx)
    assert assemble(u**6 * dx(degree=2)) != pytest.approx(apart, rel=1e-4)
    together = femnn.assemble(u**6 * dx + kappa * dx)
    assert together - femnn.assemble(kappa * dx) == pytest.approx(apart, rel=1e-12)
    together = femnn.assemble(u**6 * dx + points**2 * dx)
    assert together - assemble(points**2 * dx(degree=3)) == pytest.approx(apart, rel=1e-12)
    other = Function(FunctionSpace(V.mesh(), "Quadrature", 4)).interpolate(u)
    with pytest.raises(ValueError, match=r"Functions of the degrees \[3, 4\]: write dx\(degree="):
        femnn.assemble(points * other * dx)


def test_integrals_without_coefficients_keep_their_degree_on_curved_cells(V):
    """Whose map from the reference cell counts."""
    x, y = SpatialCoordinate(V.mesh())
    curved = Function(VectorFunctionSpace(V.mesh(), "CG", 2)).interpolate(as_vector([x, y + x**2]))
    V = FunctionSpace(Mesh(curved), "CG", 1)
    u = Function(V).interpolate(sin(5 * SpatialCoordinate(V.mesh())[0]))
    kappa = femnn.NeuralCoefficient(mlp(1), u, degree=2)
    for integrand, measure in ((exp(u), dx), (inner(grad(u), grad(u)), ds)):
        apart = assemble(integrand * measure)
        assert assemble(integrand * measure(degree=1)) != pytest.approx(apart, rel=1e-6)
        together = femnn.assemble(integrand * measure + kappa * dx)
        assert together - femnn.assemble(kappa * dx) == pytest.approx(apart, rel=1e-12)


def test_degree_of_the_measure(V):
    u = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u)
    expected = femnn.assemble(kappa * u * dx)
    assert femnn.assemble(kappa * u * dx(degree=4)) == pytest.approx(expected, rel=1e-14)
    assert femnn.assemble(kappa * u * dx(metadata={"quadrature_degree": 4})) == expected
    message = r"measure has quadrature degree 2, but N\[MLP\] in it has degree 4.*degree=2"
    with pytest.raises(ValueError, match=message):
        femnn.assemble(kappa * u * dx(degree=2))
    v = TestFunction(V)
    form = kappa * inner(grad(u), grad(v)) * dx(metadata={"quadrature_degree": 2})
    with pytest.raises(ValueError, match=message):
        femnn.solve(form == 0, u)


def test_other_integrals_keep_their_degree(V):
    u = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u)
    x, _ = SpatialCoordinate(V.mesh())
    both = femnn.assemble(kappa * dx(1) + sin(9 * x) * dx(degree=1) + x**2 * ds)
    apart = femnn.assemble(kappa * dx(1)) + assemble(sin(9 * x) * dx(degree=1))
    assert both == pytest.approx(apart + assemble(x**2 * ds), rel=1e-13)
    low, high = assemble(sin(9 * x) * dx(degree=1)), assemble(sin(9 * x) * dx(degree=8))
    assert abs(low - high) > 1e-4, "the test's integrand does not tell the degrees apart"


def test_two_degrees_in_one_integral(V):
    u = wave(V)
    a = femnn.NeuralCoefficient(mlp(1), u, name="a")
    b = femnn.NeuralCoefficient(mlp(1), u, degree=6, name="b")
    with pytest.raises(ValueError, match="a has quadrature degree 4 and b has 6, and both stand"):
        femnn.assemble(a * b * dx)
    apart = femnn.assemble(a * dx) + femnn.assemble(b * dx)
    assert femnn.assemble(a * dx + b * dx) == pytest.approx(apart, rel=1e-13)


def test_quadrature_scheme(V):
    kappa = femnn.NeuralCoefficient(mlp(1), wave(V))
    with pytest.raises(ValueError, match=r"quadrature scheme 'vertex', but .* default scheme"):
        femnn.assemble(kappa * dx(scheme="vertex"))


@pytest.mark.parametrize(("measure", "kind"), [(ds, "exterior_facet"), (dS, "interior_facet")])
def test_a_coefficient_of_cells_is_refused_on_facets(V, measure, kind):
    u, v = wave(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u)
    value = kappa if measure is ds else kappa("+")
    message = (
        rf"N\[MLP\] is evaluated at the points of .*'{kind}': make it with measure=dx, ds or dS"
    )
    with pytest.raises(ValueError, match=message):
        femnn.assemble(value * measure)
    test = v if measure is ds else v("+")
    with pytest.raises(ValueError, match=message):
        femnn.NeuralVariationalProblem(inner(grad(u), grad(v)) * dx + value * test * measure, u)


# What is refused


def test_operands_are_wanted():
    with pytest.raises(ValueError, match="a network but no operands: give at least one UFL"):
        femnn.NeuralCoefficient(mlp(1))


@pytest.mark.parametrize("operand", ["u", None, object(), lambda x: x, torch.ones(1, 1)])
def test_operands_must_be_ufl(operand, V):
    message = rf"is a {type(operand).__name__}: wanted a UFL expression"
    with pytest.raises(TypeError, match=message):
        femnn.NeuralCoefficient(mlp(2), wave(V), operand)


def test_nested_coefficients_are_refused(V):
    u = wave(V)
    inner_one = femnn.NeuralCoefficient(mlp(1), u, name="inside")
    with pytest.raises(NotImplementedError, match="contains the neural coefficient inside: comp"):
        femnn.NeuralCoefficient(mlp(1), inner_one * u)


def test_the_mesh_must_be_known(V):
    with pytest.raises(ValueError, match=r"live on 0 meshes.*give it as mesh="):
        femnn.NeuralCoefficient(mlp(1), Constant(1.0))
    other = FunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
    with pytest.raises(ValueError, match="live on 2 meshes"):
        femnn.NeuralCoefficient(mlp(2), wave(V), wave(other))


def test_the_network_must_take_the_operands(V):
    u = wave(V)
    with pytest.raises(ValueError, match="the network MLP does not take the 3 inputs"):
        femnn.NeuralCoefficient(mlp(1), u, grad(u))
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not function"):
        femnn.NeuralCoefficient(lambda x: x, u)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2), (4,)])
def test_the_shape_must_fit_the_outputs(shape, V):
    with pytest.raises(ValueError, match=r"the network MLP has 3 outputs, shape=.* wants \d"):
        femnn.NeuralCoefficient(mlp(1, 3), wave(V), shape=shape)


def test_gradient_in_space_of_a_vector_is_refused(V):
    kappa = femnn.NeuralCoefficient(mlp(1, 2), wave(V), name="k")
    with pytest.raises(NotImplementedError, match=r"k.grad\(\): only for one output.*has 2"):
        kappa.grad()


# Values


@pytest.mark.parametrize(
    ("n_outputs", "shape", "expected"),
    [(1, None, ()), (3, None, (3,)), (4, (2, 2), (2, 2)), (1, (1,), (1,)), (6, (2, 3), (2, 3))],
)
def test_values_are_those_of_the_network_at_the_points(n_outputs, shape, expected, V):
    u, (x, y), c = wave(V), SpatialCoordinate(V.mesh()), Constant(0.7)
    net = mlp(5, n_outputs)
    kappa = femnn.NeuralCoefficient(net, u, grad(u), x * y, c, shape=shape)
    assert kappa.ufl_shape == expected
    assert isinstance(kappa, Expr)
    kappa.update()
    inputs = np.hstack([at_points(e, kappa) for e in (u, grad(u), x * y, c + 0 * x)])
    with torch.no_grad():
        values = net(torch.from_numpy(inputs)).numpy()
    got = kappa.dat.data_ro
    assert got.shape == (len(inputs), *(() if expected == (1,) else expected))
    assert np.allclose(got.reshape(values.shape), values, rtol=1e-13, atol=1e-14)
    assert values.std() > 1e-3


def test_a_tensor_operand_is_taken_row_by_row(V):
    W = VectorFunctionSpace(V.mesh(), "CG", 2)
    x, y = SpatialCoordinate(V.mesh())
    w = Function(W).interpolate(as_vector([x * y**2, sin(x) + y]))
    net = mlp(4)
    kappa = femnn.NeuralCoefficient(net, grad(w)).update()
    D = grad(w)
    rows = [at_points(D[i, j], kappa) for i, j in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    with torch.no_grad():
        expected = net(torch.from_numpy(np.hstack(rows))).numpy()[:, 0]
    assert np.allclose(kappa.dat.data_ro, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)])
def test_forms_equal_those_of_the_network_written_out(shape, V):
    u, v = wave(V), TestFunction(V)
    x, _ = SpatialCoordinate(V.mesh())
    n = int(np.prod(shape, dtype=int))
    net = mlp(2, n)
    kappa = femnn.NeuralCoefficient(net, u, x, shape=shape or None)
    entries = femnn.to_ufl(net, u, x)
    written = {
        (): lambda: entries[0],
        (2,): lambda: as_vector(entries),
        (2, 2): lambda: as_tensor([entries[:2], entries[2:]]),
    }[shape]()
    assert femnn.assemble(inner(kappa, kappa) * dx) == pytest.approx(
        assemble(inner(written, written) * dx(degree=4)), rel=1e-13
    )

    def flux(k):
        return k * u if len(shape) == 1 else k * grad(u)

    got = femnn.assemble(inner(flux(kappa), grad(v)) * dx).dat.data_ro
    expected = assemble(inner(flux(written), grad(v)) * dx(degree=4)).dat.data_ro
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implicit", [True, False], ids=["of u", "of x"])
def test_a_tensor_law_in_a_solve(implicit, V):
    """The solution and the weight gradient of an anisotropic law, against a scalar for each."""
    x, y = SpatialCoordinate(V.mesh())
    v, bc = TestFunction(V), DirichletBC(V, 0, "on_boundary")
    solutions, gradients = [], []
    for split_up in (False, True):
        get_working_tape().clear_tape()
        u = Function(V)
        operands = (u, x, y) if implicit else (x, y)
        net = mlp(len(operands), 4, output="softplus")
        if split_up:
            parts = [Part(net, i) for i in range(4)]
            k = [femnn.NeuralCoefficient(p, *operands) for p in parts]
            weights, K = k[0].weights, as_tensor([k[:2], k[2:]])
            assert all(ki.weights is weights for ki in k)
        else:
            K = femnn.NeuralCoefficient(net, *operands, shape=(2, 2))
            weights = K.weights
        continue_annotation()
        F = inner((K + 2 * Identity(2)) * grad(u), grad(v)) * dx - 10 * v * dx
        femnn.solve(F == 0, u, bc, solver_parameters=TIGHT)
        J = assemble((u - x) ** 2 * dx)
        pause_annotation()
        solutions.append(u.dat.data_ro.copy())
        gradients.append(ReducedFunctional(J, Control(weights)).derivative().vector)
    assert np.allclose(*solutions, rtol=1e-10, atol=1e-12)
    assert np.allclose(*gradients, rtol=1e-8, atol=1e-12)
    assert np.linalg.norm(gradients[0]) > 1e-3


class Part(torch.nn.Module):
    def __init__(self, net, i):
        super().__init__()
        self.net, self.i = net, i

    def forward(self, x):
        return self.net(x)[:, self.i : self.i + 1]


def test_gradient_in_space_equals_that_of_the_network_written_out(V):
    u, (x, _) = wave(V), SpatialCoordinate(V.mesh())
    net = mlp(2)
    kappa = femnn.NeuralCoefficient(net, u, x)
    (written,) = femnn.to_ufl(net, u, x)
    direction = as_vector([1.0, 2.0])
    got = femnn.assemble(inner(kappa.grad(), kappa.grad() + direction) * dx)
    expected = assemble(inner(grad(written), grad(written) + direction) * dx(degree=4))
    assert got == pytest.approx(expected, rel=1e-12)
    assert kappa.slope is kappa.slope
    assert kappa.slope.weights is kappa.weights


def test_copies_are_ordinary_functions(V):
    kappa = femnn.NeuralCoefficient(mlp(1), wave(V)).update()
    values = kappa.dat.data_ro.copy()
    copy = kappa.copy(deepcopy=True)
    assert type(copy) is Function
    assert np.array_equal(copy.dat.data_ro, values)
    copy.assign(0)
    assert np.array_equal(kappa.dat.data_ro, values)
    assert all(type(f) is Function for f in kappa.subfunctions)


# Values that are out of date


@pytest.mark.parametrize("change", ["operand", "weights", "constant", "mesh"])
def test_assemble_evaluates_again(change):
    mesh = UnitSquareMesh(3, 3)
    u, c = wave(FunctionSpace(mesh, "CG", 1)), Constant(0.5)
    x, _ = SpatialCoordinate(mesh)
    net = mlp(3)
    kappa = femnn.NeuralCoefficient(net, u, c, x)

    def expected():
        return assemble(femnn.to_ufl(net, u, c, x)[0] * dx(degree=4))

    before = femnn.assemble(kappa * dx)
    assert before == pytest.approx(expected(), rel=1e-13)
    sweeps = kappa.evaluator.sweeps["value"]
    assert femnn.assemble(kappa * dx) == before
    assert kappa.evaluator.sweeps["value"] == sweeps, "evaluated although nothing has changed"
    if change == "operand":
        u.assign(2 * u)
    elif change == "constant":
        c.assign(-1.0)
    elif change == "mesh":
        mesh.coordinates.assign(1.5 * mesh.coordinates)
    else:
        kappa.weights.assign(kappa.weights.vector + 0.1)
    after = femnn.assemble(kappa * dx)
    assert after != pytest.approx(before, rel=1e-3)
    assert after == pytest.approx(expected(), rel=1e-13)


def test_stale_values_are_not_used(V):
    u = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u, name="law")
    message = r"values of law are out of date.*femnn.assemble and femnn.solve .* or call update"
    for annotated in (False, True):
        (continue_annotation if annotated else pause_annotation)()
        u.assign(u + 0.5)
        with pytest.raises(RuntimeError, match=message):
            assemble(kappa * dx)
        kappa.update()
        J = assemble(kappa * dx(degree=4))
        kappa.weights.assign(kappa.weights.vector + 0.1)
        with pytest.raises(RuntimeError, match=message):
            assemble(kappa * dx)
        assert femnn.assemble(kappa * dx) != pytest.approx(J)
        with torch.no_grad():
            next(kappa.net.parameters()).mul_(2)
        with pytest.raises(RuntimeError, match=message):
            assemble(kappa * dx)
    pause_annotation()


def test_never_evaluated_is_stale(V):
    kappa = femnn.NeuralCoefficient(mlp(1), wave(V))
    with pytest.raises(RuntimeError, match="out of date"):
        _ = kappa.dat.data_ro


def test_firedrakes_assemble_records_what_is_up_to_date(V):
    """After update(), Firedrake's own assemble gives the same gradient as femnn's."""
    u = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(1), u)
    gradients = []
    for how in (assemble, femnn.assemble):
        get_working_tape().clear_tape()
        continue_annotation()
        kappa.update()
        J = how(kappa**2 * u * dx(degree=4))
        pause_annotation()
        Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(u)])
        dw, du = Jhat.derivative(apply_riesz=False)
        gradients.append((dw.vector, du.dat.data_ro.copy()))
    for a, b in zip(*gradients, strict=True):
        assert np.allclose(a, b, rtol=1e-12, atol=1e-14)
        assert np.linalg.norm(a) > 1e-4


@pytest.mark.parametrize("nonlinear", [True, False], ids=["of u", "of x"])
def test_what_the_user_holds_is_untouched_by_the_tape(nonlinear, V):
    x, _ = SpatialCoordinate(V.mesh())
    u, v, f, c = Function(V), TestFunction(V), wave(V, "f"), Constant(2.0)
    g = Function(V, name="g").interpolate(0.1 * x)
    net = mlp(2, output="softplus")
    kappa = femnn.NeuralCoefficient(net, *((u, f) if nonlinear else (x, f)))
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx - c * (10 + f) * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, g, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble((u - x) ** 2 * dx + 0.1 * kappa**2 * dx)
    pause_annotation()

    def everything():
        fields = [a.dat.data_ro.tobytes() for a in (u, f, g, c, kappa, V.mesh().coordinates)]
        return [*fields, *(p.detach().numpy().tobytes() for p in net.parameters())]

    before = everything()
    Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c), Control(g)])
    away = [
        kappa.weights.like(kappa.weights.vector + 0.3),
        Function(V).assign(f + 1),
        Constant(3.0),
        Function(V).assign(g + 0.2),
    ]
    value = Jhat(away)
    assert value != pytest.approx(J, rel=1e-3)
    assert everything() == before
    Jhat.derivative()
    assert everything() == before
    assert Jhat(away) == pytest.approx(value, rel=1e-9)
    assert Jhat([kappa.weights, f, c, g]) == pytest.approx(J, rel=1e-9)
    assert everything() == before


# Kinds of equations and operands


def test_linear_equations(V):
    x, y = SpatialCoordinate(V.mesh())
    u, v, bc = TrialFunction(V), TestFunction(V), DirichletBC(V, x, "on_boundary")
    net = mlp(2, output="exp")
    kappa, f = femnn.NeuralCoefficient(net, x, y), Constant(10.0)
    (written,) = femnn.to_ufl(net, x, y)
    solution, expected = Function(V), Function(V)
    continue_annotation()
    result = femnn.solve(
        kappa * inner(grad(u), grad(v)) * dx == f * kappa * v * dx, solution, bcs=bc
    )
    J = assemble(solution**2 * dx)
    pause_annotation()
    assert result is solution
    m = dx(degree=4)
    solve(written * inner(grad(u), grad(v)) * m == f * written * v * m, expected, bcs=bc)
    assert np.allclose(solution.dat.data_ro, expected.dat.data_ro, rtol=1e-9, atol=1e-11)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    rng = np.random.default_rng(0)
    w, direction = kappa.weights.vector, rng.standard_normal(len(kappa.weights))
    gradient = Jhat.derivative().vector @ direction
    h = 1e-5
    above, below = (Jhat(kappa.weights.like(w + s * h * direction)) for s in (1, -1))
    assert gradient == pytest.approx((above - below) / (2 * h), rel=1e-6)


def test_a_linear_equation_with_a_law_of_the_unknown_is_refused(V):
    u, v, solution = TrialFunction(V), TestFunction(V), Function(V)
    kappa = femnn.NeuralCoefficient(mlp(1), solution, name="law")
    with pytest.raises(ValueError, match="given as a == L, but law depends on the unknown, so it"):
        femnn.solve(kappa * inner(grad(u), grad(v)) * dx == v * dx, solution)


@pytest.mark.parametrize("nonlinear", [True, False], ids=["of u", "of x"])
@pytest.mark.parametrize("shape", [(), (2,)], ids=["scalar", "vector"])
def test_constants_as_operands(nonlinear, shape, V):
    x, _ = SpatialCoordinate(V.mesh())
    u, v = Function(V), TestFunction(V)
    values = np.array([0.7, -0.4])[: int(np.prod(shape, dtype=int))].reshape(shape)
    c = Constant(values)
    net = mlp(1 + c.values().size, output="softplus")
    kappa = femnn.NeuralCoefficient(net, u if nonlinear else x, c)
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble((u - x) ** 2 * dx + kappa * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    gradient = np.asarray(Jhat.derivative().dat.data_ro).reshape(shape)
    h = 1e-5
    for index in np.ndindex(shape):
        step = np.zeros(shape)
        step[index] = h
        above, below = Jhat(Constant(values + step)), Jhat(Constant(values - step))
        assert gradient[index] == pytest.approx((above - below) / (2 * h), rel=1e-6)
        assert abs(gradient[index]) > 1e-5
    assert np.array_equal(c.dat.data_ro.reshape(shape), values)


def test_the_mesh_may_be_given(V):
    kappa = femnn.NeuralCoefficient(mlp(1), Constant(2.0), mesh=V.mesh())
    expected = kappa.net(torch.full((1, 1), 2.0, dtype=torch.float64)).item()
    assert femnn.assemble(kappa * dx) == pytest.approx(expected, rel=1e-13)
    number = femnn.NeuralCoefficient(kappa.net, 2.0, mesh=V.mesh())
    assert femnn.assemble(number * dx) == pytest.approx(expected, rel=1e-13)


def test_attributes(V):
    u = wave(V)
    net = mlp(1)
    kappa = femnn.NeuralCoefficient(net, u, name="conductivity")
    assert kappa.name() == "conductivity"
    assert kappa.net is net
    assert kappa.operands == (u,)
    assert kappa.mesh is V.mesh()
    assert kappa.dependencies == [u]
    assert kappa.depends_on(u)
    assert not kappa.depends_on(wave(V))
    assert femnn.NeuralCoefficient(net, u).name() == "N[MLP]"


def test_elements_that_split_the_cells_are_refused(mesh):
    u = Function(FunctionSpace(mesh, "HCT", 3))
    k = femnn.NeuralCoefficient(mlp(1), u, name="k")
    with pytest.raises(NotImplementedError, match=r"k stands in an .*cells are split"):
        femnn.assemble(k * TestFunction(u.function_space()) * dx)


def test_spaces_without_point_values_are_refused(mesh):
    x, _ = SpatialCoordinate(mesh)
    moments = FunctionSpace(mesh, FiniteElement("CG", triangle, 2, variant="integral"))
    mixed = FunctionSpace(mesh, "CG", 1) * FunctionSpace(mesh, "CG", 1)
    for space in (moments, mixed, FunctionSpace(mesh, "RT", 1)):
        with pytest.raises(ValueError, match="are not values at points: a network is evaluated"):
            femnn.NeuralCoefficient(mlp(1), x, space=space)


def test_a_hessian_with_a_control_that_does_not_move(V):
    """No direction for a field is a direction of zero."""
    from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation

    continue_annotation()
    m = wave(V)
    kappa = femnn.NeuralCoefficient(mlp(2), m, SpatialCoordinate(V.mesh())[1])
    J = femnn.assemble(kappa**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(m)])
    Jhat.derivative()
    along = kappa.weights.like(np.linspace(-1, 1, len(kappa.weights)))
    still, zero = Jhat.hessian([along, None]), Jhat.hessian([along, Function(V)])
    np.testing.assert_allclose(still[0].vector, zero[0].vector, rtol=1e-12)
    np.testing.assert_allclose(still[1].dat.data_ro, zero[1].dat.data_ro, rtol=1e-9, atol=1e-14)


def test_the_measure_can_give_the_degree(V):
    u = wave(V)
    assert femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), u, measure=ds(degree=3)).degree == 3
    with pytest.raises(ValueError, match="got degree=4 and a measure of degree 3: give the deg"):
        femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), u, degree=4, measure=dx(degree=3))
