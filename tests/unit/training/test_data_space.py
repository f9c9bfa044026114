"""Gauss-Newton steps by rows of data: for few data and many numbers to find."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.columns import factors_of, gauss_newton_matrix
from femnn.tape.rows import residual_rows
from femnn.tape.squares import SumOfSquares
from femnn.training.controls import ControlVector
from femnn.training.data_space import DataSpace
from femnn.training.steihaug import Spectrum, Subspace

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
WELLS = np.random.default_rng(3).uniform(0.1, 0.9, (7, 2))


def wells(width=40, prior=True, field=False, loss=None, penalty=False):
    """Seven readings of a nonlinear diffusion; a law to find, or a field with a prior, too."""
    get_working_tape().clear_tape()
    mesh = UnitSquareMesh(6, 6)
    V = FunctionSpace(mesh, "CG", 1)
    u, v, bc = Function(V), TestFunction(V), DirichletBC(V, 0, "on_boundary")
    f = Function(V, name="f").interpolate(Constant(10.0))
    net = femnn.MLP(1, width, 1, output="softplus", input_range=(0, 1), seed=1)
    kappa = femnn.NeuralCoefficient(net, u)
    at = femnn.Stations(mesh, WELLS)
    values = 0.3 + 0.3 * np.sin(9 * WELLS[:, 0]) * WELLS[:, 1]
    data = femnn.Observations(at, values, 0.02, loss=loss)
    priors = [femnn.GaussianPrior(kappa.weights, 2.0, mean=kappa.weights.vector)] if prior else []
    controls = [Control(kappa.weights)]
    if field:
        priors.append(femnn.FieldPrior.bilaplacian(f, gamma=0.1, delta=1.0, mean=10.0))
        controls.append(Control(f))
    continue_annotation()
    femnn.solve(
        kappa * inner(grad(u), grad(v)) * dx - f * v * dx == 0, u, bc, solver_parameters=TIGHT
    )
    J = data.misfit(u)
    for known in priors:
        J = J + known.energy()
    if penalty:
        J = J + femnn.assemble(1e-3 * kappa**2 * dx)
    pause_annotation()
    return ReducedFunctional(J, controls if len(controls) > 1 else controls[0])


@pytest.mark.parallel([1, 2, 3])
def test_rows_make_the_matrix_of_all_directions():
    """By adjoint runs for each datum, and by the tangent-linear model in each direction."""
    Jhat = wells(prior=False)
    functional, controls, tape = Jhat.functional, Jhat.controls, Jhat.tape
    losses = factors_of(functional, controls, tape)
    assert [type(block) for block in losses] == [SumOfSquares]
    rows = residual_rows(functional, controls, tape, losses, ControlVector(Jhat).flat)
    matrix = gauss_newton_matrix(functional, controls, tape)
    assert rows.shape == (7, 121)
    assert np.abs(rows.T @ rows - matrix).max() <= 1e-9 * np.abs(matrix).max()


@pytest.mark.parametrize("radius", [1e-2, 0.5, 50.0])
@pytest.mark.parametrize("values", [[1.0], [0.0], [0.0, 2.0, 2.0, 7.0], [3.0, 0.5]])
def test_steps_of_the_subspace_are_those_of_the_whole(values, radius):
    random = np.random.default_rng(0)
    rows, gradient = random.normal(size=(5, 40)), random.normal(size=40)
    free = random.uniform(size=40) > 0.2
    diagonal = np.resize(values, 40)
    if 0.0 in values:  # a gradient outside of the rows' span would have no minimum
        gradient = rows.T @ random.normal(size=5) + diagonal * gradient
    rows, gradient = rows * free, gradient * free
    step, fall = Subspace(rows, diagonal, gradient).step(radius)
    matrix = rows.T @ rows + np.diag(diagonal * free)
    wanted, expected = Spectrum(matrix, gradient).step(radius)
    assert fall == pytest.approx(expected, rel=1e-9)
    assert np.allclose(step, wanted, atol=1e-8 * np.linalg.norm(wanted))


def test_steps_are_exact_where_data_are_known_very_differently():
    """Three data of seven 1e9 times as exact: the prior still counts, as in one of linear size."""
    random = np.random.default_rng(0)
    rows, offset = random.normal(size=(7, 300)), random.normal(size=300)
    rows[:3] *= 1e9
    residuals = random.normal(size=7)
    step, _ = Subspace(rows, np.ones(300), rows.T @ residuals + offset).step(1e6)
    # (1 + R'R)^-1 of the gradient, by least squares of the stacked system.
    whole = np.vstack([rows, np.eye(300)])
    wanted = -np.linalg.lstsq(whole, np.concatenate([residuals, offset]), rcond=0)[0]
    assert np.allclose(step, wanted, atol=1e-5 * np.linalg.norm(wanted))


CASES = {
    "a law": {},
    "without a prior": {"prior": False},
    "an outlier": {"loss": femnn.Huber(0.5)},
    "a law and a field": {"field": True},
}


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("case", CASES)
def test_a_training_is_that_by_the_matrix_at_fewer_runs(case, monkeypatch):
    rows = femnn.fit(wells(**CASES[case]), "gauss-newton", maxiter=4, progress=False)
    monkeypatch.setattr(DataSpace, "steps", lambda *arguments: None)
    whole = femnn.fit(wells(**CASES[case]), "gauss-newton", maxiter=4, progress=False)
    assert rows.loss < 0.8 * rows.initial_loss
    for ours, theirs in zip(rows.history, whole.history, strict=True):
        # Without a prior most eigenvalues of the whole matrix are rounding: 1e-6 after four steps.
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert rows.solves.tangent == 0
    assert rows.solves.adjoint == 7 * rows.iterations + rows.evaluations
    assert whole.solves.tangent >= 121 * whole.iterations


def test_bounds_hold_the_same_weights():
    found = []
    for patched in (False, True):
        Jhat = wells()
        start = Jhat.controls[0].control.vector
        with pytest.MonkeyPatch.context() as patch:
            if patched:
                patch.setattr(DataSpace, "steps", lambda *arguments: None)
            bounds = (start - 0.05, start + 0.05)
            found.append(femnn.fit(Jhat, "gauss-newton", bounds=bounds, maxiter=5, progress=False))
    rows, whole = found
    assert rows.solves.tangent == 0 < whole.solves.tangent
    assert np.isclose(np.abs(rows.weights - start), 0.05).sum() > 5
    assert np.allclose(rows.weights, whole.weights, atol=1e-6)


def test_a_penalty_that_is_no_sum_over_entries_takes_the_matrix():
    result = femnn.fit(wells(penalty=True), "gauss-newton", maxiter=2, progress=False)
    assert result.solves.tangent >= 121


def test_data_that_know_nothing_of_a_control_are_no_reason_to_warn(caplog):
    Jhat, c = wells(), Constant(1.0, name="c")
    continue_annotation()
    J = Jhat.functional + femnn.GaussianPrior(c, 3.0).energy()
    pause_annotation()
    Jhat = ReducedFunctional(J, [*Jhat.controls, Control(c)])
    result = femnn.fit(Jhat, "gauss-newton", maxiter=2, progress=False)
    assert result.solves.tangent == 0
    assert float(c) == pytest.approx(0.0, abs=1e-8)
    assert not caplog.records
