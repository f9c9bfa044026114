"""Training by Gauss-Newton and Newton steps: iterations, bounds, ranks, paths of steps."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.training.steihaug import Path, Spectrum

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def diffusion(field=False):
    """A misfit to what a known law gives; controls are a network's weights, or a field, too."""
    mesh = UnitSquareMesh(6, 6)
    V = FunctionSpace(mesh, "CG", 1)
    x, _ = SpatialCoordinate(mesh)
    v, bc = TestFunction(V), DirichletBC(V, 0, "on_boundary")
    truth, u = Function(V), Function(V)
    source = Function(V).interpolate(10 * (1 + x))
    F = (1 + truth**2) * inner(grad(truth), grad(v)) * dx - source * v * dx
    solve(F == 0, truth, bc, solver_parameters=TIGHT)
    f = Function(V, name="f").assign(10.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 6, 1, output="softplus", seed=1), u)
    continue_annotation()
    law = 1 + u**2 if field else kappa
    F = law * inner(grad(u), grad(v)) * dx - (f if field else source) * v * dx
    femnn.solve(F == 0, u, bc, solver_parameters=TIGHT)
    J = femnn.assemble(0.5 * (u - truth) ** 2 * dx)
    J = J + femnn.assemble(5e-9 * inner(grad(f), grad(f)) * dx) if field else J
    pause_annotation()
    return ReducedFunctional(J, Control(f if field else kappa.weights))


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("method", ["gauss-newton", "newton-cg"])
def test_weights_in_few_iterations(method):
    """Lower than L-BFGS in five times as many; the same on any number of ranks."""
    Jhat = diffusion()
    weights = Jhat.controls[0].control
    start = weights.vector.copy()
    slow = femnn.fit(Jhat, maxiter=100, gtol=0.0, progress=False)
    weights.assign(start)
    result = femnn.fit(Jhat, method, maxiter=20, gtol=0.0, progress=False)
    assert result.loss < slow.loss < 1e-3 * result.initial_loss
    losses = [step.loss for step in result.history]
    assert losses == sorted(losses, reverse=True)
    assert np.array_equal(weights.vector, result.weights)
    assert Jhat(weights) == pytest.approx(result.loss, rel=1e-6)


@pytest.mark.parallel([1, 2])
def test_a_field_to_the_gradient_of_zero():
    """A regularised source: the number of iterations is that of Newton's method."""
    result = femnn.fit(diffusion(field=True), "newton-cg", gtol=1e-12, progress=False)
    assert result.reason == "converged"
    assert result.iterations <= 8
    again = femnn.fit(diffusion(field=True), "gauss-newton", gtol=1e-12, progress=False)
    assert again.reason == "converged"
    assert again.loss == pytest.approx(result.loss, rel=1e-9)


def test_bounds_hold():
    Jhat = diffusion(field=True)
    result = femnn.fit(Jhat, "gauss-newton", bounds=(5.0, 15.0), maxiter=30, progress=False)
    (f,) = result.controls
    assert f.dat.data_ro.min() >= 5.0
    assert f.dat.data_ro.max() == 15.0
    Jhat(f.copy(deepcopy=True).assign(10.0))
    other = femnn.fit(diffusion(field=True), bounds=(5.0, 15.0), maxiter=300, progress=False)
    assert result.loss == pytest.approx(other.loss, rel=1e-3)


def test_an_option_that_means_nothing():
    with pytest.raises(ValueError, match=r"options has 'maxcor', which gauss-newton does not take"):
        femnn.fit(diffusion(), "gauss-newton", options={"maxcor": 5}, progress=False)
    with pytest.raises(ValueError, match=r"options\['maxcg'\]=0, wanted 1 or more"):
        femnn.fit(diffusion(), "newton-cg", options={"maxcg": 0}, progress=False)


def test_options_of_conjugate_gradients_are_used_where_a_matrix_would_be_less_work():
    """Steps that are solved exactly fall as those by the matrix do, one product falls short."""
    losses = [
        femnn.fit(diffusion(), "gauss-newton", maxiter=3, options=options, progress=False).loss
        for options in ({}, {"cgtol": 1e-14, "maxcg": 1000}, {"maxcg": 1})
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[2] > 1.5 * losses[0]


# Paths of conjugate gradients


def matrix(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return q @ np.diag(values) @ q.T


def test_a_path_ends_at_the_minimum():
    A, g = matrix([1.0, 2.0, 5.0, 30.0]), np.array([1.0, -2.0, 0.5, 3.0])
    path = Path(A.__matmul__, g, 100.0, 1e-12, 20)
    step, fall = path.step(100.0)
    assert np.allclose(A @ step, -g)
    assert fall == pytest.approx(0.5 * g @ np.linalg.solve(A, g))
    steps = [path.step(r) for r in (0.1, 0.3, 0.6, 1.0, 1.5)]
    for (step, fall), radius in zip(steps, (0.1, 0.3, 0.6, 1.0, 1.5), strict=True):
        assert np.linalg.norm(step) == pytest.approx(min(radius, np.linalg.norm(path.step(9.0)[0])))
        assert fall == pytest.approx(-(g @ step + 0.5 * step @ A @ step))
    falls = [fall for _, fall in steps]
    assert falls == sorted(falls)


def test_a_path_goes_along_negative_curvature_to_the_edge():
    A, g = matrix([1.0, -2.0, 5.0]), np.array([1.0, -2.0, 0.5])
    step, fall = Path(A.__matmul__, g, 2.0, 1e-12, 20).step(2.0)
    assert np.linalg.norm(step) == pytest.approx(2.0)
    assert fall == pytest.approx(-(g @ step + 0.5 * step @ A @ step))
    assert fall > 0


@pytest.mark.parametrize("values", [[1.0, 2.0, 5.0, 30.0], [0.0, 1e-18, 2.0, 30.0], [-2, 1, 3, 4]])
@pytest.mark.parametrize("radius", [1e-3, 0.5, 50.0])
def test_exact_steps_are_minima_in_the_ball(values, radius):
    A, g = matrix(values), np.array([1.0, -2.0, 0.5, 3.0])
    step, fall = Spectrum(A, g).step(radius)
    size = np.linalg.norm(step)
    assert size <= radius * (1 + 1e-9)
    assert fall == pytest.approx(-(g @ step + 0.5 * step @ A @ step))
    damping = -(step @ (A @ step + g)) / size**2  # Lagrange's multiplier
    assert damping == pytest.approx(0.0, abs=1e-9) if size < 0.999 * radius else damping > -1e-12
    assert np.allclose(A @ step + damping * step, -g, atol=1e-7 * np.linalg.norm(g))
    assert np.linalg.eigvalsh(A).min() + damping > -1e-9


def test_a_step_that_hardly_bends_ends_at_the_edge():
    """The damping is the slope divided by the radius, to rounding."""
    random = np.random.default_rng(1)
    for slope, radius in zip(
        10 ** random.uniform(0, 14, 50), random.uniform(0.1, 9, 50), strict=True
    ):
        step, _ = Spectrum(np.array([[1e-14 * slope]]), np.array([-slope])).step(radius)
        assert step == pytest.approx([radius])
