"""Priors and posteriors of fields: closed forms of linear models, ranks, schedules, low ranks."""

import numpy as np
import pytest
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *
from firedrake.adjoint.covariance_operator import AutoregressiveCovariance

import femnn
from femnn.tape.counts import counting

QUIET = {"progress": False}
PLACES = np.random.default_rng(5).uniform(0.05, 0.95, (9, 2))


class Smoothed:
    """-0.1 div(grad u) + u = m, seen at nine places: linear, so the posterior is known."""

    def __init__(self, comm=COMM_WORLD, n=3, steps=None, schedule=None, std=0.05, law=False):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(n, n, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        self.V, self.m, self.u = V, Function(V, name="m"), Function(V)
        self.c = Constant(0.4, name="c")
        self.prior = femnn.FieldPrior.bilaplacian(self.m, 0.1, 2.0, mean=0.3)
        self.stations = femnn.Stations(mesh, PLACES)
        values = 0.5 + np.random.default_rng(1).normal(0, 0.3, 9)
        self.values = values
        self.data = femnn.Observations(self.stations, values, std)
        continue_annotation()
        self._record(steps, schedule, law)
        pause_annotation()
        self.Jhat = ReducedFunctional(self.J, Control(self.m))

    def _record(self, steps, schedule, law):
        u, v, X = self.u, TestFunction(self.V), SpatialCoordinate(self.V.mesh())
        if steps:
            tape = femnn.enable_checkpointing(schedule) if schedule else get_working_tape()
            u.assign(self.m)
            un = Function(self.V)
            F = (u - un) / 0.01 * v * dx + 0.1 * inner(grad(u), grad(v)) * dx
            for _ in tape.timestepper(iter(range(steps))):
                un.assign(u)
                femnn.solve(F == 0, u)
        else:
            source = self.m
            if law:
                net = femnn.MLP(1, 3, 1, init="normal", seed=0)
                self.kappa = femnn.NeuralCoefficient(net, X[0])
                source = self.m + self.kappa + self.c * X[1]
            F = (0.1 * inner(grad(u), grad(v)) + (u - source) * v) * dx
            femnn.solve(F == 0, u)
        self.misfit = self.data.misfit(u)
        self.J = self.misfit + self.prior.energy()
        self.seen = self.stations(u)
        self.mass = femnn.assemble(u * dx)
        if law:
            self.priors = [femnn.GaussianPrior(self.kappa.weights), femnn.GaussianPrior(self.c)]
            self.J = self.J + self.priors[0].energy() + self.priors[1].energy()

    def design(self):
        """The derivative of what is seen by each of the field's values."""
        layout, zero = self.prior.layout, np.zeros(len(self.prior))
        control = ReducedFunctional(self.seen, Control(self.m))

        def at(vector):
            field = Function(self.V)
            layout.store(vector, field)
            with stop_annotating():
                return np.array(control(field))

        start = at(zero)
        return np.stack([at(e) - start for e in np.eye(len(zero))], axis=1), start

    def closed_form(self, std=0.05):
        R = self.prior.metric.product(np.eye(len(self.prior)))
        A, start = self.design()
        H = R + A.T @ A / std**2
        right = R @ self.prior.mean + A.T @ (self.values - start) / std**2
        return np.linalg.solve(H, right), np.linalg.inv(H), A


def fitted(model, **options):
    femnn.fit(model.Jhat, "gauss-newton", maxiter=20, gtol=1e-10, options={"cgtol": 1e-12}, **QUIET)
    return femnn.laplace(model.Jhat, **options)


# Priors


def dense(form):
    return assemble(form).M.values


@pytest.mark.parametrize("kind", ["bilaplacian", "form", 0, 4, 6])
def test_the_prior_is_that_of_its_covariance(kind):
    """Against dense matrices, and against Firedrake's operator."""
    V = FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)
    m, u, v = Function(V), TrialFunction(V), TestFunction(V)
    M = dense(u * v * dx)
    theta = as_matrix([[1.2, 0.4], [0.4, 0.8]])
    if isinstance(kind, int):
        covariance = AutoregressiveCovariance(V, L=0.3, sigma=1.5, m=kind)
        prior = femnn.FieldPrior(m, covariance, mean=0.2)
    else:
        form = 0.5 * u * v * dx + 0.1 * inner(dot(theta, grad(u)), grad(v)) * dx
        covariance = None
        if kind == "form":
            prior = femnn.FieldPrior(m, form, mean=0.2)
        else:
            prior = femnn.FieldPrior.bilaplacian(m, 0.1, 0.5, theta, mean=0.2)
            form = form + np.sqrt(0.05) / 1.42 * u * v * ds
        A = dense(form)
        C = np.linalg.inv(A) @ M @ np.linalg.inv(A)
    n = len(prior)
    factor = prior.metric.point(np.eye(n))
    if covariance is not None:
        columns = []
        for e in np.eye(n):
            given = Cofunction(V.dual())
            given.dat.data_wo[:] = e
            columns.append(covariance.apply_action(given).dat.data_ro.copy())
        C = np.stack(columns, axis=1)
    assert np.allclose(factor @ factor.T, C, rtol=1e-6, atol=1e-8 * np.abs(C).max())
    assert np.allclose(prior.metric.product(C), np.eye(n), atol=1e-6)
    x = np.random.default_rng(0).normal(size=(n, 2))
    assert np.allclose(prior.metric.coordinates(factor @ x), x, atol=1e-9)
    assert np.allclose(prior.metric.gradient(x), factor.T @ x, atol=1e-9)
    assert np.allclose(prior.metric.representer(x), C @ x, atol=1e-7)
    assert np.allclose(prior.std().dat.data_ro, np.sqrt(np.diag(C)), rtol=1e-6)
    assert prior.trace() == pytest.approx(np.trace(M @ C), rel=1e-6)
    m.interpolate(SpatialCoordinate(V)[0])
    d = m.dat.data_ro - 0.2
    assert prior.energy() == pytest.approx(0.5 * d @ np.linalg.solve(C, d), rel=1e-6)


def test_the_boundary_of_an_extruded_mesh():
    V = FunctionSpace(ExtrudedMesh(UnitSquareMesh(2, 2, quadrilateral=True), 2), "Q", 1)
    u, v = TrialFunction(V), TestFunction(V)
    prior = femnn.FieldPrior.bilaplacian(Function(V), 0.1, 0.5)
    form = 0.5 * u * v * dx + 0.1 * inner(grad(u), grad(v)) * dx
    A = dense(form + np.sqrt(0.05) / 1.42 * u * v * (ds_v + ds_t + ds_b))
    factor = np.linalg.inv(A)
    C = factor @ dense(u * v * dx) @ factor
    assert np.allclose(prior.std().dat.data_ro, np.sqrt(np.diag(C)), rtol=1e-6)


@pytest.mark.parallel([1, 2, 3])
def test_derivatives_of_a_fields_energy():
    """At a precision that was changed after it was recorded."""
    get_working_tape().clear_tape()
    V = VectorFunctionSpace(UnitSquareMesh(3, 3), "DG", 1)
    X = SpatialCoordinate(V)
    u, v = TrialFunction(V), TestFunction(V)
    m, h = Function(V).interpolate(X), Function(V).interpolate(as_vector([sin(X[1]), X[0] ** 2]))
    prior = femnn.FieldPrior(m, 3 * inner(u, v) * dx + inner(jump(u), jump(v)) * dS, mean=0.3)
    continue_annotation()
    J = prior.energy() ** 2
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(m))
    before = float(Jhat(m))
    prior.precision = 2.5
    assert float(Jhat(m)) == pytest.approx(2.5**2 * before, rel=1e-10)
    rates = taylor_to_dict(Jhat, m, h)
    assert rates["R1"]["Rate"][-1] > 1.95
    assert rates["R2"]["Rate"][-1] > 2.95


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"control": Constant(1.0)}, TypeError, "got a Constant: wanted a Function"),
        ({"covariance": 3.0}, TypeError, "got a float as covariance"),
        ({"covariance": "other"}, ValueError, "on another space"),
        ({"covariance": "singular"}, ValueError, "cannot be factorised"),
        ({"precision": -1.0}, ValueError, "wanted one positive number"),
        ({"mean": np.nan}, ValueError, "not finite"),
        ({"mean": "other"}, ValueError, "on another space"),
    ],
)
def test_a_field_prior_that_means_nothing(arguments, error, message):
    mesh = UnitIntervalMesh(3)
    V, W = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "CG", 2)
    u, v = TrialFunction(V), TestFunction(V)
    forms = {
        "other": TrialFunction(W) * TestFunction(W) * dx,
        "singular": Constant(0.0) * u * v * dx,
    }
    given = {"control": Function(V), "covariance": u * v * dx} | arguments
    if isinstance(given["covariance"], str):
        given["covariance"] = forms[given["covariance"]]
    if given.get("mean") == "other":
        given["mean"] = Function(W)
    with pytest.raises(error, match=message):
        femnn.FieldPrior(**given)


# Posteriors


@pytest.mark.parametrize("options", [{}, {"rank": 10}, {"hessian": "exact"}])
def test_a_linear_model_of_a_field_has_the_closed_form(options):
    model = Smoothed()
    posterior = fitted(model, **options)
    mean, covariance, A = model.closed_form()
    assert np.allclose(posterior.mean, mean, rtol=1e-8, atol=1e-9)
    assert np.allclose(posterior.covariance, covariance, rtol=1e-7, atol=1e-9)
    known = posterior.of(model.m)
    assert known.std.name() == f"std of {known.mean.name()}"  # so that one file can hold both
    assert np.allclose(known.mean.dat.data_ro, mean, atol=1e-9)
    assert np.allclose(known.std.dat.data_ro, np.sqrt(np.diag(covariance)), rtol=1e-7)
    M = dense(TrialFunction(model.V) * TestFunction(model.V) * dx)
    traces = posterior.trace(model.m)
    assert traces.posterior == pytest.approx(np.trace(M @ covariance), rel=1e-7)
    assert traces.prior == pytest.approx(model.prior.trace())
    variance = np.einsum("ij,jk,ik->i", A, covariance, A)
    assert np.allclose(posterior.predict(model.seen, 0.1).std ** 2, variance + 0.01, rtol=1e-6)
    field = posterior.predict(model.u)
    assert np.allclose(np.asarray(model.stations(field.mean)), A @ mean, atol=1e-8)
    gradient = A.T @ np.zeros(9) + assemble(TestFunction(model.V) * dx).dat.data_ro
    # -0.1 div(grad u) + u = m has the mean of m
    expected = np.sqrt(gradient @ covariance @ gradient)
    assert posterior.predict(model.mass).std == pytest.approx(expected, rel=1e-5)
    draws = posterior.sample(4000, seed=2)
    assert np.allclose(draws.std(0), np.sqrt(np.diag(covariance)), rtol=0.06)
    assert posterior.parameters_by_control() == pytest.approx(posterior.effective_parameters)


@pytest.mark.parametrize("method", ["L-BFGS", "newton-cg", "lmvm"])
def test_a_fit_is_measured_by_the_prior(method):
    """In its units all but the directions that data know have curvature one; bounds leave it."""
    model = Smoothed(std=0.5)
    result = femnn.fit(model.Jhat, method, maxiter=40, gtol=1e-7, **QUIET)
    assert result.iterations < 25
    mean = model.closed_form(std=0.5)[0]
    assert np.allclose(model.prior.layout.vector(model.m), mean, atol=1e-5)
    if method == "L-BFGS":
        model.m.assign(0.3)
        femnn.fit(model.Jhat, method, maxiter=3, bounds=(0.2, 0.5), **QUIET)
        assert 0.2 <= model.m.dat.data_ro.min() <= model.m.dat.data_ro.max() <= 0.5


@pytest.mark.parallel([1, 2])
def test_a_fit_takes_all_directions_of_a_field_together():
    """One sweep for each iteration, and no products; steps are as long as the region allows."""
    model = Smoothed()
    result = femnn.fit(model.Jhat, "gauss-newton", maxiter=10, gtol=1e-10, **QUIET)
    assert result.iterations <= 4
    assert result.solves.tangent % len(model.prior) == 0
    assert result.solves.tangent <= (result.iterations + 1) * len(model.prior)
    assert result.solves.adjoint <= result.evaluations
    found = model.prior.layout.vector(model.m)
    assert np.allclose(found, model.closed_form()[0], rtol=0, atol=1e-8)


def test_a_low_rank_says_what_it_neglects():
    model = Smoothed(std=0.01)
    full = fitted(model)
    some = femnn.laplace(model.Jhat, rank=3)
    assert len(some.spectrum) == 3
    assert np.allclose(some.spectrum, full.spectrum[:3], rtol=1e-6)
    assert some.neglected == pytest.approx(full.spectrum[3], rel=1e-6)
    assert "neglected" in repr(some)
    assert (some.std >= full.std - 1e-10).all()
    with pytest.warns(UserWarning, match="directions of the posterior alone are wrong"):
        seen = some.predict(model.seen)
    assert np.allclose(seen.std, full.predict(model.seen).std, rtol=1e-5)
    with pytest.raises(ValueError, match="rank"):
        femnn.laplace(model.Jhat, rank=0)
    with pytest.raises(ValueError, match="hessian"):
        femnn.laplace(model.Jhat, hessian="newton")


@pytest.mark.parallel([2, 3])
@pytest.mark.parametrize("options", [{}, {"rank": 10}])
def test_a_field_on_several_ranks(options):
    """As on one."""
    found = []
    for comm in (COMM_WORLD, COMM_SELF):
        model = Smoothed(comm)
        posterior = fitted(model, **options)
        field, u = posterior.of(model.m), posterior.predict(model.u)
        fields = [model.stations(f) for f in (field.mean, field.std, u.mean, u.std)]
        numbers = [*posterior.spectrum[:9], posterior.log_evidence, *posterior.trace(model.m)]
        found.append([*np.ravel(fields), *numbers, *posterior.predict(model.seen).std])
    assert np.allclose(*found, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"rank": 10}])
def test_an_initial_state_under_a_schedule(options):
    plain = Smoothed(steps=3)
    expected = fitted(plain, **options)
    mean, covariance, A = plain.closed_form()
    scheduled = Smoothed(steps=3, schedule=Revolve(3, 1))
    posterior = fitted(scheduled, **options)
    for found in (expected, posterior):
        assert np.allclose(found.mean, mean, atol=1e-8)
        assert np.allclose(found.covariance, covariance, atol=1e-8)
    variance = np.einsum("ij,jk,ik->i", A, covariance, A)
    assert np.allclose(posterior.predict(scheduled.seen).std ** 2, variance, rtol=1e-6)
    with pytest.raises(RuntimeError, match="no derivative in many directions"):
        posterior.predict(scheduled.u)


@pytest.mark.parallel([1, 2])
def test_weights_a_constant_and_a_field_together():
    """The covariance of all is the inverse of the precision, by differences."""
    model = Smoothed(law=True)
    w = model.kappa.weights
    Jhat = ReducedFunctional(model.J, [Control(w), Control(model.m), Control(model.c)])
    femnn.fit(Jhat, "gauss-newton", maxiter=20, options={"cgtol": 1e-10}, **QUIET)
    posterior = femnn.laplace(Jhat)
    seen = ReducedFunctional(model.seen, Jhat.controls)
    columns, n = [], len(posterior.mean)
    for e in np.eye(n):
        with stop_annotating():
            pair = [np.array(seen(posterior.values(posterior.mean + s * e))) for s in (1e-4, -1e-4)]
        columns.append((pair[0] - pair[1]) / 2e-4)
    A = np.array(columns).T / 0.05
    R = np.eye(n)
    place = slice(len(w), n - 1)
    R[place, place] = model.prior.metric.product(np.eye(len(model.prior)))
    for found in (posterior, femnn.laplace(Jhat, rank=10)):
        assert np.allclose(found.covariance @ (R + A.T @ A), np.eye(n), atol=1e-5)
        known = found.parameters_by_control()
        assert known.shape == (3,)
        assert known.sum() == pytest.approx(found.effective_parameters, rel=1e-6)
        assert found.of(model.c).std == pytest.approx(found.std[-1])
        assert np.allclose(found.of(w).mean, w.vector)
        law = found.law(model.kappa, np.linspace(0, 1, 4))
        assert law.std.shape == (4,)
    with pytest.raises(ValueError, match="wanted one of these controls"):
        posterior.of(model.u)
    with pytest.raises(ValueError, match="has no FieldPrior"):
        posterior.trace(w)


def test_precision_of_a_field_by_evidence():
    """The fixed point is where the data are most probable."""
    model = Smoothed()
    model.prior.fixed = False
    result = femnn.fit_with_evidence(model.Jhat, rounds=30, tol=1e-6, maxiter=2, **QUIET)
    best = float(model.prior.precision[0])
    values = []
    for factor in (0.95, 1.0, 1.05):
        model.prior.precision = factor * best
        values.append(fitted(model).log_evidence)
    assert values[1] > max(values[0], values[2])
    assert values[1] == pytest.approx(result.posterior.log_evidence, rel=1e-4)


def test_fields_without_a_density():
    model = Smoothed()
    continue_annotation()
    scaled = model.misfit + 2 * model.prior.energy()
    other = model.J + femnn.assemble(model.u**2 * dx)
    pause_annotation()
    control = Control(model.m)
    for J, options, message in (
        (scaled, {}, "2 times a field prior's energy"),
        (model.misfit, {}, "the control m has no prior"),
        (other, {"rank": 3}, "has another term"),
        (model.misfit, {"rank": 3}, r"add FieldPrior\(control\)"),
    ):
        with pytest.raises(ValueError, match=message):
            femnn.laplace(ReducedFunctional(J, control), **options)


@pytest.mark.parallel([1, 3])
def test_few_data_take_an_adjoint_run_each():
    """More numbers than a matrix is made for: exact steps, and all directions of the posterior."""
    model = Smoothed(n=46)
    result = femnn.fit(model.Jhat, "gauss-newton", gtol=1e-8, **QUIET)
    assert result.reason == "converged"
    assert result.iterations <= 2  # the model is linear
    assert result.solves.tangent == 0
    with counting() as solves:
        posterior = femnn.laplace(model.Jhat)
    assert posterior.neglected == 0.0
    assert solves.tangent == 0
    assert solves.adjoint == 9
    by_products = femnn.laplace(model.Jhat, rank=9)
    assert np.allclose(posterior.spectrum, by_products.spectrum, rtol=1e-6)
    mass, expected = posterior.predict(model.mass), by_products.predict(model.mass)
    assert mass.std == pytest.approx(expected.std, rel=1e-6)
    assert posterior.trace(model.m).posterior == pytest.approx(
        by_products.trace(model.m).posterior, rel=1e-8
    )
