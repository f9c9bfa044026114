"""Gauss-Newton products on the tape, against the matrix made column by column."""

import numpy as np
import pytest
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.columns import _Sweep, gauss_newton_matrix
from femnn.tape.curvature import gauss_newton_product

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def diffusion(V):
    """A nonlinear diffusion: the solver, its unknown, its last state, law and source."""
    u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
    f = Function(V, name="f").interpolate(5 * SpatialCoordinate(V.mesh())[0])
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), u)
    F = (u - un) * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    return femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT), u, un, kappa, f


def product(J, controls, direction):
    return gauss_newton_product(J, controls, direction, get_working_tape())


@pytest.mark.parallel([1, 2])
def test_the_matrix_of_a_sum_of_squares():
    """With the mass matrix between the model's Jacobian, and the penalty's own part."""
    V = FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)
    solver, u, _, kappa, _ = diffusion(V)
    continue_annotation()
    solver.solve()
    J = femnn.assemble((u - 1) ** 2 * dx) + 0.1 * kappa.weights.squared_norm()
    pause_annotation()
    w = kappa.weights
    model = ReducedFunctional(u, Control(w))
    columns = [model.tlm(w.like(row)).copy(deepcopy=True) for row in np.eye(len(w))]
    direction = np.random.default_rng(1).normal(size=len(w))
    found = product(J, Control(w), w.like(direction)).vector
    rows = [[assemble(2 * a * b * dx) for b in columns] for a in columns]
    expected = np.array(rows) @ direction + 0.2 * direction
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)
    whole = gauss_newton_matrix(J, [Control(w)], get_working_tape())
    assert np.allclose(whole @ direction, expected, rtol=1e-9, atol=1e-12)
    Jhat = ReducedFunctional(J, Control(w))
    with pytest.raises(RuntimeError, match=r"Call Jhat.derivative\(\) before Jhat.hessian"):
        Jhat.hessian(w.like(direction))
    Jhat.derivative()
    assert not np.allclose(Jhat.hessian(w.like(direction)).vector, expected, rtol=1e-3)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("kind", ["functionals", "fluxes", "averages"])
def test_integrals_that_are_observed_belong_to_the_model(kind):
    """Numbers are not the end of the model where data are compared with them."""
    mesh = UnitSquareMesh(4, 3)
    V = FunctionSpace(mesh, "CG", 1)
    solver, u, _, kappa, _ = diffusion(V)
    at = {
        "functionals": femnn.Functionals(mesh, ["a", "b"], lambda u: [u**2 * dx, kappa * dx]),
        "fluxes": femnn.Fluxes(mesh, {"left": 1, "right": 2}),
        "averages": femnn.Averages(mesh, {"all": "everywhere", "right": ds(2)}),
    }[kind]
    seen = (1 + u**2) * grad(u) if kind == "fluxes" else u
    data = femnn.Observations(at, [0.3, 0.5], [0.1, 0.2])
    continue_annotation()
    solver.solve()
    observe = data.start()
    observe(seen)
    J = observe.misfit()
    pause_annotation()
    w, tape = kappa.weights, get_working_tape()
    matrix = gauss_newton_matrix(J, [Control(w)], tape)
    direction = np.random.default_rng(1).normal(size=len(w))
    assert np.allclose(matrix @ direction, product(J, Control(w), w.like(direction)).vector)
    residuals = ReducedFunctional(observe.residuals, Control(w))
    steps = [residuals(w.like(w.vector + s * direction)).vector.copy() for s in (1e-5, -1e-5)]
    change = (steps[0] - steps[1]) / 2e-5
    assert direction @ matrix @ direction == pytest.approx(change @ change, rel=1e-6)
    assert change @ change > 1e-6


def explicit_law(V, where):
    """A law of the last state, at points of cells or nodes; of one value or two."""
    un, x = Function(V), SpatialCoordinate(V.mesh())
    if where == "two values":
        k = femnn.NeuralCoefficient(femnn.MLP(3, 4, 2, seed=1), un, grad(un), degree=2)
        return un, k, 1 + k[0] ** 2 + 0.1 * k[1]
    if where == "nodes":
        net = femnn.MLP(2, 4, 1, output="softplus", seed=1)
        k = femnn.NeuralCoefficient(net, un, x[0], space=V)
    else:
        net = femnn.MLP(2, 4, 1, output="softplus", seed=1)
        k = femnn.NeuralCoefficient(net, un**2, un.dx(0), degree=2)
    return un, k, k


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("where", ["cells", "nodes", "two values"])
def test_laws_of_the_last_state_take_all_directions_together(where, monkeypatch):
    """Three steps with an explicit law; nothing is run once for each direction."""
    mesh = UnitSquareMesh(3, 3)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    un, law, k = explicit_law(V, where)
    F = 3 * (u - un) * v * dx + k * inner(grad(u), grad(v)) * dx - 5 * v * dx
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    )
    wells = femnn.Stations(mesh, [[0.4, 0.3], [0.8, 0.6]])
    data = femnn.Observations(wells, np.full((2, 2), 0.5), 0.1, [2.0, 3.0])
    continue_annotation()
    observe, w = data.start(), law.weights
    observe(un, 0.0)
    for step in range(3):
        solver.solve()
        un.assign(u)
        observe(u, step + 1.0)
    J = observe.misfit()
    pause_annotation()
    tape = get_working_tape()
    monkeypatch.setattr(_Sweep, "_one_by_one", None)
    for scale in (1.0, 1.2):  # where it was recorded, and elsewhere
        ReducedFunctional(J, Control(w))(w.like(scale * w.vector))
        matrix = gauss_newton_matrix(J, [Control(w)], tape)
        direction = np.random.default_rng(1).normal(size=len(w))
        expected = product(J, Control(w), w.like(direction)).vector
        assert np.allclose(matrix @ direction, expected, rtol=1e-8, atol=1e-9)
        assert np.linalg.norm(expected) > 1e-4


def test_numbers_that_are_observed_and_lost_are_left_to_products():
    V = FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)
    solver, u, _, kappa, _ = diffusion(V)
    continue_annotation()
    solver.solve()
    total = femnn.assemble(u * dx)
    at = femnn.Functionals(V.mesh(), ["total"], lambda number: [number])
    vector = at(total)
    J = total**2 + (vector * vector).sum()
    pause_annotation()
    assert gauss_newton_matrix(J, [Control(kappa.weights)], get_working_tape()) is None


def test_it_is_the_hessian_where_the_model_is_linear():
    V = FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)
    u, v = Function(V), TestFunction(V)
    x, _ = SpatialCoordinate(V.mesh())
    f = Function(V).interpolate(x)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), x)
    continue_annotation()
    femnn.solve(kappa * inner(grad(u), grad(v)) * dx - f * v * dx == 0, u, DirichletBC(V, 0, 1))
    J = femnn.assemble((u - 1) ** 4 * dx) ** 2
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(f))
    direction = Function(V).interpolate(1 + x**2)
    Jhat.derivative()
    expected = Jhat.hessian(direction).dat.data_ro.copy()
    found = product(J, Control(f), direction).dat.data_ro
    assert np.allclose(found, expected, rtol=1e-9)


def test_a_schedule_gives_the_same():
    V, results = FunctionSpace(UnitIntervalMesh(6), "CG", 1), []
    for schedule in (None, Revolve(4, 2)):
        get_working_tape().clear_tape()
        continue_annotation()
        if schedule is not None:
            femnn.enable_checkpointing(schedule)
        solver, u, un, kappa, f = diffusion(V)
        J = 0.0
        for _ in get_working_tape().timestepper(iter(range(4))):
            solver.solve()
            un.assign(u)
            J += femnn.assemble((u - 1) ** 2 * dx)
        pause_annotation()
        w = kappa.weights
        direction = [w.like(np.linspace(-1, 1, len(w))), Function(V).assign(0.3)]
        if schedule is not None:
            ReducedFunctional(J, Control(w))(w)
        dw, df = product(J, [Control(w), Control(f)], direction)
        results.append(np.concatenate([dw.vector, df.dat.data_ro]))
    assert np.linalg.norm(results[0]) > 1e-3
    assert np.allclose(*results, rtol=1e-9, atol=1e-12)


def mixed(mesh):
    """A steady mixed problem with two networks, one of data, and a Constant."""
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    w, (v, q) = Function(W), TestFunctions(W)
    u, p = split(w)
    x, y = SpatialCoordinate(mesh)
    c = Constant([1.0, 0.5], name="c")
    viscosity = femnn.NeuralCoefficient(
        femnn.MLP(1, 3, 1, output="softplus", seed=1), dot(u, u), degree=4
    )
    force = femnn.NeuralCoefficient(femnn.MLP(2, 3, 2, seed=2), x, y, degree=4)
    F = viscosity * inner(grad(u), grad(v)) * dx - (p * div(v) + q * div(u)) * dx
    F -= (3 * inner(force, v) + inner(c, v) * dot(u, u)) * dx(degree=4)
    femnn.solve(F == 0, w, DirichletBC(W.sub(0), 0, (1, 2, 3)), solver_parameters=TIGHT)
    J = femnn.assemble(dot(u, u) * dx + 0.1 * p**2 * dx)
    return J, [viscosity.weights, force.weights, c]


def boundary(mesh):
    """A law on facets of a broken field, and a time loop."""
    V = FunctionSpace(mesh, "DG", 1)
    u, un, v = Function(V), Function(V), TestFunction(V)
    x, _ = SpatialCoordinate(mesh)
    n, c = FacetNormal(mesh), Constant(2.0)
    law = femnn.NeuralCoefficient(
        femnn.MLP(1, 3, 1, output="softplus", seed=1), u, measure=ds, degree=3
    )
    inside = femnn.NeuralCoefficient(
        femnn.MLP(1, 3, 1, output="softplus", seed=2), jump(u) ** 2, measure=dS, degree=3
    )
    F = (u - un) * v * dx + inner(grad(u), grad(v)) * dx - c * x * v * dx
    F += law * u * v * ds + 10 * inside * jump(u) * jump(v) * dS
    F -= inner(avg(grad(u)), jump(v, n)) * dS
    problem = femnn.NeuralVariationalProblem(F, u)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    J = 0.0
    for _ in range(2):
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - 1) ** 2 * dx)
    return J, [law.weights, inside.weights, c]


def coupled(mesh):
    """Integrals of squares of the unknown and of laws in cells, on facets and between cells."""
    V = FunctionSpace(mesh, "CG", 2)
    u, v = Function(V), TestFunction(V)
    x, y = SpatialCoordinate(mesh)
    net = femnn.MLP(2, 3, 1, output="softplus", seed=1)
    kappa = femnn.NeuralCoefficient(net, x, y, degree=4)
    law = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=2), u, measure=ds, degree=3)
    inside = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=3), avg(u), measure=dS, degree=3)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * y * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    J = femnn.assemble((u - kappa) ** 2 * dx + inner(kappa.grad(), kappa.grad()) * dx)
    J += femnn.assemble((law - 2 * u) ** 2 * ds + (inside - x) ** 2 * dS)
    return J, [kappa.weights, law.weights, inside.weights]


def scaled(mesh):
    """An integral with a Constant that changes, too."""
    V = FunctionSpace(mesh, "CG", 1)
    u, v, c = Function(V), TestFunction(V), Constant(2.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus", seed=1), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    return femnn.assemble((c - u) ** 2 * dx), [kappa.weights, c]


def observed(mesh):
    """Readings in time, of an expression, with gaps and outliers."""
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    u, un, v = Function(V).interpolate(x), Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), u)
    F = (u - un) * v * dx + kappa * inner(grad(u), grad(v)) * dx - 5 * y * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    at = femnn.Stations(mesh, [[0.3, 0.4], [0.9, 0.2], [0.6, 0.7]])
    readings = np.array([[0.2, np.nan, 0.5], [0.6, 0.9, 0.7]])
    data = femnn.Observations(at, readings, std=0.1, times=[0.5, 1.7], loss=femnn.Huber(2.0))
    observe = data.start()
    observe(u**2, 0.0)
    for step in range(2):
        un.assign(u)
        solver.solve()
        observe(u**2, step + 1.0)
    J = observe.misfit() + 0.1 * kappa.weights.squared_norm()
    return J, [kappa.weights]


def held(mesh, **options):
    """A source of a Cofunction, in a problem on a restricted space or with bounds."""
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    x, _ = SpatialCoordinate(mesh)
    c, source = Constant(2.0), femnn.assemble(10 * x * v * dx)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus", seed=1), u)
    F = kappa * inner(grad(u), grad(v)) * dx + c * u * v * dx - source
    femnn.solve(F == 0, u, DirichletBC(V, x, 1), **options)
    return femnn.assemble((u - 0.1) ** 2 * dx), [kappa.weights, c]


def restricted(mesh):
    return held(mesh, restrict=True, solver_parameters=TIGHT)


def bounded(mesh):
    V = FunctionSpace(mesh, "CG", 1)
    bounds = Function(V).assign(-1.0), Function(V).assign(0.8)
    return held(mesh, bounds=bounds, solver_parameters={"snes_type": "vinewtonrsls", **TIGHT})


def parts_of_the_last_state(mesh):
    """Laws of one part and of both parts of a mixed state, as it was at the last step."""
    W = FunctionSpace(mesh, "DG", 1) * VectorFunctionSpace(mesh, "CG", 1)
    w, last, (v, q) = Function(W), Function(W), TestFunctions(W)
    (u, p), (un, pn), (x, y) = split(w), split(last), SpatialCoordinate(mesh)
    net = femnn.MLP(1, 3, 1, output="softplus", seed=1)
    one = femnn.NeuralCoefficient(net, un, degree=3)
    both = femnn.NeuralCoefficient(femnn.MLP(3, 3, 1, seed=2), un, pn, degree=3)
    F = (u - un - one * x) * v * dx + inner(p - pn - both * grad(x * y), q) * dx
    F += div(p) * v * dx + inner(grad(p), grad(q)) * dx
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, w), solver_parameters=TIGHT
    )
    J = 0.0
    for _ in range(3):
        solver.solve()
        last.assign(w)
        J += femnn.assemble((u - 1) ** 2 * dx + inner(p, p) * dx)
    return J, [one.weights, both.weights]


MODELS = [mixed, parts_of_the_last_state, boundary, coupled, scaled, observed, restricted, bounded]


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_all_directions_at_once(model):
    """The matrix against products, each a run of the tape."""
    continue_annotation()
    J, controls = model(UnitSquareMesh(3, 2))
    pause_annotation()
    marked = [Control(c) for c in controls]
    matrix = gauss_newton_matrix(J, marked, get_working_tape())
    sizes = [len(c.vector) if hasattr(c, "vector") else c.dat.data_ro.size for c in controls]
    pieces = np.split(np.random.default_rng(1).normal(size=sum(sizes)), np.cumsum(sizes)[:-1])
    direction = [
        c.like(p) if hasattr(c, "like") else Constant(p.reshape(c.ufl_shape))
        for c, p in zip(controls, pieces, strict=True)
    ]
    products = product(J, marked, direction)
    expected = [p.vector if hasattr(p, "vector") else np.ravel(p.dat.data_ro) for p in products]
    assert np.linalg.norm(matrix) > 1e-4
    assert np.allclose(
        matrix @ np.concatenate(pieces), np.concatenate(expected), rtol=1e-7, atol=1e-11
    )
    assert np.linalg.eigvalsh(matrix).min() > -1e-10 * np.linalg.norm(matrix)


def test_a_loss_that_is_no_sum_has_no_matrix():
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    solver, u, _, kappa, f = diffusion(V)
    continue_annotation()
    solver.solve()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    tape = get_working_tape()
    assert gauss_newton_matrix(J, [Control(kappa.weights)], tape) is not None
    assert gauss_newton_matrix(J, [Control(f)], tape) is None
    continue_annotation()
    J = J**2
    pause_annotation()
    assert gauss_newton_matrix(J, [Control(kappa.weights)], tape) is None


def test_weights_of_cofunctions_have_no_matrix():
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    u, v, c = Function(V), TestFunction(V), Constant(2.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus", seed=1), u)
    source = assemble(v * dx)
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx + c * u * v * dx - c * source
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    tape = get_working_tape()
    assert gauss_newton_matrix(J, [Control(kappa.weights)], tape) is not None
    assert gauss_newton_matrix(J, [Control(c)], tape) is None
