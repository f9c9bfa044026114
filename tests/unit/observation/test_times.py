"""Observations of models in time: between steps, with gaps, under schedules."""

import numpy as np
import pytest
import scipy.stats
from checkpoint_schedules import MixedCheckpointSchedule, Revolve, StorageType
from firedrake import *
from firedrake.adjoint import *

import femnn

from .support import POINTS, both_comms, check_derivatives, follow, wave

N = len(POINTS)
TIMES = np.array([0.0, 0.1, 0.15, 0.3, 0.55, 0.8, 0.95, 1.0])
STEPS = 5


def values_with_gaps(seed=1):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (len(TIMES), N))
    values[rng.uniform(size=values.shape) < 0.3] = np.nan
    return values


VALUES = values_with_gaps()


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(4, 4)


@pytest.fixture(scope="module")
def stations(mesh):
    return femnn.Stations(mesh, POINTS)


class Run:
    """A nonlinear model in time, and its misfit."""

    def __init__(self, data, schedule=None):
        tape = get_working_tape()
        tape.clear_tape()
        if schedule is not None:
            tape = femnn.enable_checkpointing(schedule)
        continue_annotation()
        V = FunctionSpace(data.at.mesh, "CG", 1)
        self.start, self.c = wave(V), Constant(0.5)
        u = Function(V).assign(self.start)
        self.observe = data.start()
        self.observe(u, 0.0)
        for step in tape.timestepper(iter(range(STEPS))):
            u.assign(follow(u * cos(self.c * u) + 0.1 * self.start**2, V))
            self.observe(u, (step + 1) / STEPS)
        self.value = self.observe.misfit()
        pause_annotation()
        self.V = V

    def derivatives(self, parameters=()):
        values = [self.start, self.c, *parameters]
        directions = [wave(self.V, 1), *(Constant(0.1) for _ in values[1:])]
        return [self.value, *check_derivatives(self.value, values, directions)]


def test_between_states_the_model_is_interpolated(mesh, stations):
    x, _ = SpatialCoordinate(mesh)
    data = femnn.Observations(stations, VALUES, 0.1, times=TIMES)
    observe = data.start()
    for t in (0, 0.25, 0.7, 1.0):
        observe(Constant(t) * x, t)
    expected = np.where(np.isnan(VALUES), np.nan, TIMES[:, None] * POINTS[:, 0])
    np.testing.assert_allclose(observe.model, expected, atol=1e-14)
    residuals = ((expected - VALUES) / 0.1)[~np.isnan(VALUES)]
    assert observe.misfit() == pytest.approx(0.5 * (residuals**2).sum())
    np.testing.assert_allclose(observe.residuals, residuals)


def test_sums_of_steps_reach_the_datas_times(mesh, stations):
    """0.1 three times is more than 0.3; ten times less than 1."""
    x, _ = SpatialCoordinate(mesh)
    times = np.array([0.3, 0.7, 1.0])
    data = femnn.Observations(stations, np.zeros((3, N)), 0.1, times=times)
    observe, t = data.start(), 0.0
    for _ in range(11):
        observe(Constant(np.exp(t)) * x, t)
        t += 0.1
    np.testing.assert_allclose(observe.model, np.exp(times)[:, None] * POINTS[:, 0], rtol=1e-12)
    assert observe.misfit() > 0


ERRORS = {
    "squares": lambda p: {"std": 0.2},
    "for each value": lambda p: {"std": 0.2 + 0.1 * np.abs(np.nan_to_num(VALUES))},
    "Student": lambda p: {"std": 0.2, "loss": femnn.StudentT(3)},
    "correlated": lambda p: {"std": 0.2, "correlation": 0.3},
    "unknown std": lambda p: {"scale": p[0]},
    "of the model": lambda p: {
        "scale": femnn.ErrorModel(lambda model, a, b: a + b * abs(model), p[0], p[1])
    },
    "all": lambda p: {
        "scale": femnn.ErrorModel(lambda model, a, b: a + b * abs(model), p[0], p[1]),
        "correlation": p[2],
        "loss": femnn.StudentT(5),
    },
}
USED = {"unknown std": 1, "of the model": 2, "all": 3}


def run_with(stations, errors, schedule=None):
    parameters = [Constant(0.3), Constant(0.2), Constant(0.4)]
    data = femnn.Observations(stations, VALUES, times=TIMES, **ERRORS[errors](parameters))
    return Run(data, schedule), parameters[: USED.get(errors, 0)]


@pytest.mark.parametrize("errors", ERRORS)
def test_derivatives(stations, errors):
    run, parameters = run_with(stations, errors)
    run.derivatives(parameters)


@pytest.mark.parallel([1, 2, 3])
def test_the_same_on_any_number_of_ranks():
    found = []
    for comm in both_comms():
        stations = femnn.Stations(UnitSquareMesh(4, 4, comm=comm), POINTS)
        run, parameters = run_with(stations, "all")
        found.append(run.derivatives(parameters))
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: Revolve(STEPS, 2),
        lambda: MixedCheckpointSchedule(STEPS, 2, storage=StorageType.DISK),
    ],
    ids=["revolve", "mixed, disk"],
)
def test_schedules_give_the_same(stations, schedule):
    found = []
    for make in (lambda: None, schedule):
        run, parameters = run_with(stations, "all", make())
        found.append(run.derivatives(parameters))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


def test_correlated_errors_have_the_density_of_their_covariance(stations):
    """Of a stationary process whose covariance decays with the distance in time."""
    tau, sigma = 0.4, np.linspace(0.2, 0.5, N)
    given = {"std": sigma, "correlation": tau}
    estimated = {"scale": Constant(sigma), "correlation": Constant(tau)}
    values = []
    for errors in (given, estimated):
        observe = femnn.Observations(stations, VALUES, times=TIMES, **errors).start()
        for t in TIMES:
            observe(Constant(0.1), t)
        values.append(observe.misfit())
    quadratic, minus_log = 0.0, 0.0
    for i in range(N):
        seen = ~np.isnan(VALUES[:, i])
        distances = np.abs(np.subtract.outer(TIMES[seen], TIMES[seen]))
        covariance = sigma[i] ** 2 * np.exp(-distances / tau)
        density = scipy.stats.multivariate_normal(np.full(seen.sum(), 0.1), covariance)
        e = VALUES[seen, i] - 0.1
        quadratic += 0.5 * e @ np.linalg.solve(covariance, e)
        minus_log -= density.logpdf(VALUES[seen, i]) - 0.5 * seen.sum() * -np.log(2 * np.pi)
    assert values[0] == pytest.approx(quadratic, rel=1e-10)
    assert values[1] == pytest.approx(minus_log, rel=1e-10)


def test_part_of_the_time(stations):
    data = femnn.Observations(stations, VALUES, 0.1, times=TIMES)
    part = data.between(0.1, 0.55)
    seen = (TIMES >= 0.1) & (TIMES <= 0.55)
    np.testing.assert_array_equal(part.values, np.where(seen[:, None], VALUES, np.nan))
    assert len(data.between(end=0.1)) + len(data.between(0.15)) == len(data)
    with pytest.raises(ValueError, match=r"no values between 0\.16 and 0\.2"):
        data.between(0.16, 0.2)


def test_wrong_use(mesh, stations):
    data = femnn.Observations(stations, VALUES, 0.1, times=TIMES)
    u = wave(FunctionSpace(mesh, "CG", 1))
    with pytest.raises(ValueError, match=r"the data have times: observe the run"):
        data.misfit(u)
    observe = data.start()
    with pytest.raises(RuntimeError, match="not observed"):
        observe.misfit()
    with pytest.raises(ValueError, match=r"observe\(u, t\)"):
        observe(u)
    with pytest.raises(ValueError, match=r"t=0.1 first, but there are data at t=0.*between\(0.1"):
        observe(u, 0.1)
    observe(u, 0)
    observe(u, Constant(0.2))
    with pytest.raises(ValueError, match=r"got t=0\.2 after t=0\.2"):
        observe(u, 0.2)
    with pytest.raises(RuntimeError, match=r"until t=0.2, but .* values are later, until t=1"):
        observe.misfit()
    steady = femnn.Observations(stations, np.zeros(N), 0.1).start()
    with pytest.raises(ValueError, match="the data have no times"):
        steady(u, 0.0)
    steady(u)
    with pytest.raises(ValueError, match="was called before"):
        steady(u)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES[::-1], "must be finite and increase, but 1 is followed by 0.95"),
        (np.zeros(len(TIMES)), "but 0 is followed by 0"),
        (TIMES * np.nan, "must be finite"),
        (TIMES[:, None], r"times of shape \(8, 1\)"),
        (TIMES[:3], r"values of shape \(8, 6\): wanted \(3, 6\)"),
    ],
)
def test_wrong_times(stations, times, message):
    with pytest.raises(ValueError, match=message):
        femnn.Observations(stations, VALUES, 0.1, times=times)
    with pytest.raises(ValueError, match="wanted the time after which"):
        femnn.Observations(stations, VALUES, 0.1, times=TIMES, correlation=0.0)
