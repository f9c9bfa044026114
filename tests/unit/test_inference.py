"""Priors, evidence and Laplace's posterior: closed forms of linear models, laws with bands."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.jacobian import weight_jacobian

NOISE = 0.1
LEVELS = (0.5, 0.9)
QUIET = {"progress": False}


class Line:
    """u = c0 + c1 x + c2 x^2 by a solve, seen at twelve places; the posterior is known."""

    def __init__(self, precision=2.0, scale=None, std=NOISE, fixed=False, loss=None):
        get_working_tape().clear_tape()
        mesh = UnitIntervalMesh(4)
        self.x = np.linspace(0.02, 0.97, 12)
        self.design = np.stack([np.ones(12), self.x, self.x**2], axis=1)
        noise = np.random.default_rng(3).normal(0, NOISE, 12)
        self.values = self.design @ [1.0, -2.0, 0.5] + noise
        V = FunctionSpace(mesh, "CG", 2)
        X, v = SpatialCoordinate(mesh)[0], TestFunction(V)
        self.u, self.c = Function(V), Constant([0.3, 0.2, 0.1], name="c")
        self.stations = femnn.Stations(mesh, self.x)
        data = femnn.Observations(self.stations, self.values, std, scale=scale, loss=loss)
        self.prior = femnn.GaussianPrior(self.c, precision, mean=[0.5, 0.0, -0.5], fixed=fixed)
        continue_annotation()
        law = self.c[0] + self.c[1] * X + self.c[2] * X**2
        femnn.solve((self.u - law) * v * dx == 0, self.u)
        self.misfit = data.misfit(self.u)
        self.J = self.misfit + self.prior.energy()
        self.other = self.stations(self.u**2)
        self.mass = femnn.assemble(self.u * dx)
        pause_annotation()
        self.Jhat = ReducedFunctional(self.J, Control(self.c))

    def posterior(self, alpha, sigma):
        """Mean and covariance, in closed form."""
        H = alpha * np.eye(3) + self.design.T @ self.design / sigma**2
        right = alpha * self.prior.mean + self.design.T @ self.values / sigma**2
        return np.linalg.solve(H, right), np.linalg.inv(H)

    def log_evidence(self, alpha, sigma):
        """The density of the data, which are jointly normal."""
        covariance = sigma**2 * np.eye(12) + self.design @ self.design.T / alpha
        law = scipy.stats.multivariate_normal(self.design @ self.prior.mean, covariance)
        return law.logpdf(self.values)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("settings", [{}, {"hessian": "exact"}])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_linear_model_has_the_closed_form(scale, settings):
    """Posterior, evidence and what is predicted, with a noise that is known or a scale."""
    line = Line(scale=None if scale is None else Constant(scale), std=0.4)
    sigma = 0.4 * (scale or 1.0)
    femnn.fit(line.Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(line.Jhat, **settings)
    mean, covariance = line.posterior(2.0, sigma)
    assert np.allclose(posterior.mean, mean, rtol=1e-8)
    assert np.allclose(posterior.covariance, covariance, rtol=1e-8)
    assert np.allclose(posterior.std, np.sqrt(np.diag(covariance)), rtol=1e-8)
    assert posterior.log_evidence == pytest.approx(line.log_evidence(2.0, sigma), rel=1e-9)
    expected = np.linalg.eigvalsh(line.design.T @ line.design / sigma**2 / 2.0)[::-1]
    assert np.allclose(posterior.spectrum, expected, rtol=1e-7)
    gamma = np.trace(np.eye(3) - 2.0 * covariance)
    assert posterior.effective_parameters == pytest.approx(gamma, rel=1e-8)
    squares = (line.design @ mean - line.values) / sigma
    assert posterior.chi_squared == pytest.approx(squares @ squares / 12)


@pytest.mark.parallel([1, 2])
def test_predictions_of_a_linear_model():
    """Values at stations, a functional, a field: by the covariance and the model's derivative."""
    line = Line()
    femnn.fit(line.Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(line.Jhat)
    mean, covariance = line.posterior(2.0, NOISE)
    line.Jhat(Constant([0.3, 0.2, 0.1]))  # elsewhere
    with set_working_tape():  # which is not that of the posterior
        seen = posterior.predict(line.other, noise=0.2)
    u = line.design @ mean
    variance = np.einsum("ij,jk,ik->i", line.design, covariance, line.design)
    assert np.allclose(seen.mean, u**2, rtol=1e-8)
    assert np.allclose(seen.std**2, 4 * u**2 * variance + 0.04, rtol=1e-7)
    mass = posterior.predict(line.mass)
    weights = np.array([1, 1 / 2, 1 / 3])
    assert mass.mean == pytest.approx(weights @ mean, rel=1e-8)
    assert mass.std == pytest.approx(np.sqrt(weights @ covariance @ weights), rel=1e-7)
    field = posterior.predict(line.u)
    assert np.allclose(np.asarray(line.stations(field.mean)), u, rtol=1e-8)
    lower, upper = field.interval(0.9)
    half = scipy.stats.norm.ppf(0.95) * field.std.dat.data_ro
    assert np.allclose(upper.dat.data_ro - lower.dat.data_ro, 2 * half)
    end = Function(line.u.function_space()).interpolate(SpatialCoordinate(line.u)[0])
    at_zero = np.isclose(end.dat.data_ro, 0.0)
    assert np.allclose(field.std.dat.data_ro[at_zero], np.sqrt(covariance[0, 0]), rtol=1e-6)


def test_samples_have_the_posteriors_moments():
    line = Line()
    femnn.fit(line.Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(line.Jhat)
    draws = posterior.sample(20000, seed=1)
    assert np.allclose(draws.mean(0), posterior.mean, atol=4 * posterior.std / np.sqrt(20000))
    scale = np.outer(posterior.std, posterior.std)
    assert np.abs((np.cov(draws.T) - posterior.covariance) / scale).max() < 0.04
    assert np.array_equal(posterior.sample(3, seed=1), draws[:3])
    expected = 0.5 * ((line.design @ draws[0] - line.values) ** 2).sum() / NOISE**2
    expected += 0.5 * 2.0 * ((draws[0] - line.prior.mean) ** 2).sum()
    assert line.Jhat(posterior.values(draws[0])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parallel([1, 2])
def test_the_fixed_point_is_where_the_data_are_most_probable():
    """Precision and noise against a direct maximisation of the marginal likelihood."""
    noise = Constant(0.3)
    line = Line(precision=0.3, scale=noise, std=None)
    result = femnn.fit_with_evidence(line.Jhat, rounds=200, tol=1e-9, **QUIET)
    assert result.converged
    best = scipy.optimize.minimize(
        lambda z: -line.log_evidence(*np.exp(z)), [0.0, -1.0], tol=1e-10, method="Nelder-Mead"
    )
    alpha, sigma = np.exp(best.x)
    assert float(noise) == pytest.approx(sigma, rel=3e-4)
    assert line.prior.precision[0] == pytest.approx(alpha, rel=3e-4)
    assert result.posterior.log_evidence == pytest.approx(-best.fun, rel=1e-8)
    assert np.allclose(line.c.dat.data_ro, line.posterior(alpha, sigma)[0], rtol=5e-4)
    again = femnn.laplace(line.Jhat)
    assert again.log_evidence == pytest.approx(result.history[-1], rel=1e-10)


def test_rounds_go_on_until_the_fit_has_come_near_the_minimum():
    """The log evidence may rest while fits end at their limit of iterations."""
    model = Diffusion(known=True)
    seen = []
    result = femnn.fit_with_evidence(model.Jhat, tol=0.5, maxiter=1, callback=seen.append, **QUIET)
    assert result.converged
    assert result.posterior.distance <= 1
    steps = np.abs(np.diff(result.history))
    distances = np.array([p.distance for p in seen[1:]])[steps <= 0.5]
    assert distances[0] > 1 >= distances[-1]


def test_a_known_noise_and_known_precisions_stay():
    line = Line(fixed=True, scale=(noise := Constant(0.7)), std=None)
    femnn.fit_with_evidence(line.Jhat, tol=1e-8, **QUIET)
    assert line.prior.precision[0] == 2.0
    best = scipy.optimize.minimize_scalar(
        lambda s: -line.log_evidence(2.0, s), bounds=(0.01, 1), options={"xatol": 1e-9}
    )
    assert float(noise) == pytest.approx(best.x, rel=1e-3)
    with pytest.raises(ValueError, match="nothing is to be estimated"):
        femnn.fit_with_evidence(Line(fixed=True).Jhat, **QUIET)


@pytest.mark.parallel([1, 2])
def test_a_callback_ends_the_rounds_or_says_why():
    """It says so on one rank only."""
    line = Line()
    result = femnn.fit_with_evidence(
        line.Jhat, tol=0.0, callback=lambda p: COMM_WORLD.rank == 0, **QUIET
    )
    assert len(result.history) == 1
    assert not result.converged

    def fail(posterior):
        if COMM_WORLD.rank == 0:
            raise ArithmeticError("wrong")

    with pytest.raises(ArithmeticError if COMM_WORLD.rank == 0 else RuntimeError):
        femnn.fit_with_evidence(line.Jhat, callback=fail, **QUIET)
    for settings in ({"rounds": 0}, {"maxiter": 0}, {"tol": -1.0}):
        with pytest.raises(ValueError, match="wanted"):
            femnn.fit_with_evidence(line.Jhat, **settings, **QUIET)


def test_a_scale_that_is_a_control():
    line = Line(scale=(noise := Constant(0.7)), std=None)
    Jhat = ReducedFunctional(line.J, [Control(line.c), Control(noise)])
    with pytest.raises(ValueError, match="is a control: leave it out"):
        femnn.fit_with_evidence(Jhat, **QUIET)


# Laws of networks


def truth(u, exp=np.exp):
    return 0.3 + 0.5 * exp(-(((u - 0.25) / 0.2) ** 2)) + 0.5 * u


class Diffusion:
    """A law kappa(u) in a diffusion equation; stations with noise of a known seed."""

    def __init__(self, seed=0, n=100, noise=0.005, known=False, penalty=None, mesh=None, **prior):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(6, 6) if mesh is None else mesh
        V = FunctionSpace(mesh, "CG", 1)
        points = np.random.default_rng(0).uniform(0.02, 0.98, (n, 2))
        stations = femnn.Stations(mesh, points)
        exact = Function(V)
        solve(*self.problem(exact, truth(exact, exp)))
        values = np.asarray(stations(exact)).copy()
        self.range = (0.0, float(values.max()))
        values += np.random.default_rng(100 + seed).normal(0, noise, n)
        self.noise = Constant(0.2 * noise, name="noise")
        scale = {} if known else {"scale": self.noise}
        self.data = femnn.Observations(stations, values, noise if known else None, **scale)
        self.u = Function(V)
        net = femnn.MLP(1, 8, 1, output="softplus", input_range=(0, 1), init="normal", seed=0)
        self.kappa = femnn.NeuralCoefficient(net, self.u)
        w = self.kappa.weights
        self.prior = femnn.GaussianPrior(w, **prior)
        continue_annotation()
        femnn.solve(*self.problem(self.u, self.kappa))
        self.misfit = self.data.misfit(self.u)
        self.J = self.misfit + self.prior.energy()
        if penalty is not None:
            self.J = self.J + penalty * w.squared_norm()
        pause_annotation()
        self.Jhat = ReducedFunctional(self.J, Control(w))

    @staticmethod
    def problem(u, kappa):
        v = TestFunction(u.function_space())
        F = kappa * inner(grad(u), grad(v)) * dx - 2.6 * v * dx
        return F == 0, u, DirichletBC(u.function_space(), 0, (1, 3))


def test_the_law_is_found_and_its_bands_cover_it():
    """Over six draws of the noise, of which nobody tells the size."""
    shares, errors, sizes = [], [], []
    mesh, start = UnitSquareMesh(5, 5), None
    for seed in range(6):
        model = Diffusion(seed, 200, mesh=mesh, groups="all")
        if start is not None:  # saves iterations
            model.kappa.weights.assign(start)
        result = femnn.fit_with_evidence(model.Jhat, tol=0.5, maxiter=5, **QUIET)
        start = result.posterior.mean
        line = np.linspace(*model.range, 100)
        law = result.posterior.law(model.kappa, line)
        off = np.abs(truth(line) - law.mean)
        shares.append([np.mean(off <= law.interval(p)[1] - law.mean) for p in LEVELS])
        errors.append(np.linalg.norm(off) / np.linalg.norm(truth(line)))
        sizes.append(float(model.noise) / 0.005)
    half, most = np.mean(shares, axis=0)
    assert 0.3 < half < 0.75  # three standard deviations: a law has some six parameters
    assert 0.8 < most < 0.99
    assert max(errors) < 0.04
    assert np.allclose(sizes, 1, atol=0.15)


def test_the_matrix_of_a_network():
    """The covariance is that of the model's derivatives in each weight."""
    model = Diffusion(known=True, noise=0.05, precision=3.0)
    posterior = posterior_of(model)
    w, columns = model.kappa.weights, []
    for row in np.eye(len(w)):
        pair = []
        for step in (1e-5, -1e-5):
            with stop_annotating():
                model.Jhat(w.like(posterior.mean + step * row))
            field = model.u.block_variable.saved_output
            pair.append(np.array(model.data.at(field)))
        columns.append((pair[0] - pair[1]) / 2e-5)
    jacobian = np.array(columns).T / 0.05
    precision = jacobian.T @ jacobian + 3.0 * np.eye(len(w))
    assert np.allclose(posterior.covariance @ precision, np.eye(len(w)), atol=1e-5)


@pytest.mark.parallel([2])
def test_a_network_on_two_ranks():
    """As on one."""
    found = []
    for comm in (COMM_WORLD, COMM_SELF):
        model = Diffusion(known=True, noise=0.05, mesh=UnitSquareMesh(6, 6, comm=comm))
        if found:  # a fit adds up rounding
            model.kappa.weights.assign(posterior.mean)
        posterior = femnn.laplace(model.Jhat) if found else posterior_of(model)
        law = posterior.law(model.kappa, np.linspace(0, 1, 5))
        numbers = [posterior.log_evidence, *posterior.spectrum[:5], *law.mean, *law.std]
        found.append([*numbers, *posterior.sample(1)[0]])
        assert all(other == found[-1] for other in COMM_WORLD.allgather(found[-1]))
    assert np.allclose(*found, rtol=1e-5, atol=1e-6)


def posterior_of(model):
    femnn.fit(model.Jhat, "gauss-newton", maxiter=8, gtol=1e-4, **QUIET)
    return femnn.laplace(model.Jhat)


def test_a_law_of_derivatives():
    """Mean and std of the slope are those of differences of the law."""
    model = Diffusion(known=True, noise=0.05)
    posterior = posterior_of(model)
    net, x, h = model.kappa.net, np.array([0.1, 0.4]), 1e-5
    slope = posterior.law(femnn.Gradient(net), x)
    jacobian = [weight_jacobian(PointEvaluator(net, 1), (x + d)[:, None])[:, 0] for d in (h, -h)]
    change = (jacobian[0] - jacobian[1]) / (2 * h)
    expected = np.einsum("ij,jk,ik->i", change, posterior.covariance, change)
    assert np.allclose(slope.std**2, expected, rtol=1e-4)
    before = femnn.evaluate(net, x - h), femnn.evaluate(net, x + h)
    assert np.allclose(slope.mean, (before[1] - before[0]) / (2 * h), rtol=1e-5)
    mean = femnn.evaluate(net, x)
    model.kappa.weights.assign(np.zeros(len(model.kappa.weights)))
    assert np.array_equal(posterior.law(net, x).mean, mean)
    assert not model.kappa.weights.vector.any()
    with pytest.raises(ValueError, match="none of the network's weights are controls"):
        posterior.law(femnn.MLP(1, 3, 1), x)


def test_penalties_are_parts_of_the_prior():
    """Half of the precision as a penalty: the same posterior."""
    whole = Diffusion(known=True, noise=0.05, precision=4.0)
    one = posterior_of(whole)
    model = Diffusion(known=True, noise=0.05, precision=1.0, penalty=1.5)
    model.kappa.weights.assign(one.mean)
    other = femnn.laplace(model.Jhat)
    assert np.allclose(other.spectrum, one.spectrum, rtol=1e-6, atol=1e-6)
    assert other.log_evidence == pytest.approx(one.log_evidence, rel=1e-8)
    assert np.allclose(other.covariance, one.covariance, rtol=1e-5, atol=1e-8)


# Priors


@pytest.mark.parametrize("kind", ["weights", "constant"])
def test_derivatives_of_an_energy(kind):
    """At precisions that were changed after it was recorded."""
    weights = femnn.Weights.of(femnn.MLP(1, 4, 1, seed=1))
    control = weights if kind == "weights" else Constant([[1.0, 2.0], [0.5, -1.0]])
    get_working_tape().clear_tape()
    prior = femnn.GaussianPrior(control, 2.0, mean=0.3)
    continue_annotation()
    J = prior.energy() ** 2
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(control))
    prior.precision = np.arange(1.0, 1 + len(prior.names))
    entries = np.ravel(control.vector if kind == "weights" else control.dat.data_ro)
    expected = 0.5 * prior.of_entries() @ (entries - 0.3) ** 2
    assert Jhat(control) == pytest.approx(expected**2)
    change = np.linspace(-1, 1, len(prior))
    direction = weights.like(change) if kind == "weights" else Constant(change.reshape(2, 2))
    rates = taylor_to_dict(Jhat, control, direction)
    assert rates["R1"]["Rate"][-1] > 1.95
    assert rates["R2"]["Rate"][-1] > 2.95


def test_groups():
    weights = femnn.Weights.of(femnn.MLP(1, 4, 3, 1, seed=1))
    sizes = {"parameters": [4, 4, 12, 3, 3, 1], "layers": [8, 15, 4], "all": [27]}
    for groups, expected in sizes.items():
        prior = femnn.GaussianPrior(weights, groups=groups)
        assert prior.by_group(np.ones(27)).tolist() == expected
    prior = femnn.GaussianPrior(weights, [1, 2, 3], groups="layers")
    assert prior.names == ("layers.0", "layers.2", "layers.4")
    assert np.array_equal(prior.of_entries(), np.repeat([1.0, 2.0, 3.0], [8, 15, 4]))
    assert prior.energy() == pytest.approx(0.5 * prior.of_entries() @ weights.vector**2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"control": 3.0}, TypeError, "got a float: wanted the weights"),
        ({"precision": -1.0}, ValueError, "wanted positive numbers"),
        ({"precision": [1.0, 2.0]}, ValueError, r"wanted one number or \(1,\)"),
        ({"mean": [1.0, 2.0]}, ValueError, "wanted one finite number, or 3"),
        ({"groups": "layer"}, ValueError, "wanted one of"),
    ],
)
def test_a_prior_that_means_nothing(arguments, error, message):
    with pytest.raises(error, match=message):
        femnn.GaussianPrior(**({"control": Constant([1.0, 2.0, 3.0])} | arguments))


# Wrong use


def test_a_functional_that_is_no_density():
    line = Line()
    control = Control(line.c)
    continue_annotation()
    scaled = line.misfit / 12 + line.prior.energy()
    twice = line.J + line.prior.energy()
    no_data = femnn.assemble(line.u**2 * dx) + line.prior.energy()
    pause_annotation()
    for J, message in (
        (scaled, "0.0833333 times a sum of squares"),
        (twice, "2 energies of priors of c"),
        (no_data, "no misfit of Observations"),
        (line.misfit, "the control c has no prior"),
    ):
        with pytest.raises(ValueError, match=message):
            femnn.laplace(ReducedFunctional(J, control))
    with pytest.raises(ValueError, match=r"the control .* has no prior.*add FieldPrior"):
        femnn.laplace(ReducedFunctional(line.J, Control(line.u)))


def test_a_loss_that_is_not_the_square():
    """A posterior with its weights, and no evidence."""
    line = Line(loss=femnn.Huber(0.5))
    femnn.fit(line.Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(line.Jhat)
    r = (line.design @ posterior.mean - line.values) / NOISE
    weights = 1 / np.maximum(1, np.abs(r) / 0.5)
    assert weights.min() < 0.9
    H = line.design.T @ (weights[:, None] * line.design) / NOISE**2 + 2 * np.eye(3)
    assert np.allclose(np.linalg.inv(H), posterior.covariance, rtol=1e-6)
    for asked in (lambda: posterior.log_evidence, lambda: femnn.fit_with_evidence(line.Jhat)):
        with pytest.raises(ValueError, match=r"the loss Huber\(0.5\).*no evidence"):
            asked()


def test_far_from_the_minimum():
    line = Line()
    with pytest.warns(UserWarning, match="posterior standard deviations away"):
        posterior = femnn.laplace(line.Jhat)
    distance = posterior.mean - line.posterior(2.0, NOISE)[0]
    precision = np.linalg.inv(posterior.covariance)
    assert posterior.distance == pytest.approx(np.sqrt(distance @ precision @ distance), rel=1e-6)


def test_a_posterior_under_a_schedule():
    """Of a Constant: one observation of it at each time."""
    get_working_tape().clear_tape()
    mesh = UnitIntervalMesh(3)
    V = FunctionSpace(mesh, "CG", 1)
    u, v, c = Function(V), TestFunction(V), Constant(1.0)
    data = femnn.Observations(femnn.Stations(mesh, [0.3]), [[0.5], [0.6]], 0.1, times=[1, 2])
    continue_annotation()
    femnn.enable_checkpointing(Revolve(2, 1))
    observe = data.start()
    problem = femnn.NeuralVariationalProblem((u - c) * v * dx, u)
    solver = femnn.NeuralVariationalSolver(problem)
    for step in get_working_tape().timestepper(iter(range(2))):
        solver.solve()
        observe(u, step + 1.0)
    J = observe.misfit() + femnn.GaussianPrior(c).energy()
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    femnn.fit(Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(Jhat)
    assert posterior.mean[0] == pytest.approx(110 / 201, rel=1e-8)
    assert posterior.std[0] == pytest.approx(201**-0.5, rel=1e-8)


def test_predictions_that_are_not_there():
    line = Line()
    femnn.fit(line.Jhat, "gauss-newton", **QUIET)
    posterior = femnn.laplace(line.Jhat)
    with pytest.raises(ValueError, match="no block on the functional's tape"):
        posterior.predict(Function(line.u.function_space()))
    with pytest.raises(TypeError, match="got a float"):
        posterior.predict(1.0)
    with pytest.raises(ValueError, match="wanted a probability"):
        posterior.predict(line.other).quantile(1.0)
