"""Misfits of steady models: their values, residuals and derivatives; what data are refused."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.curvature import gauss_newton_product
from femnn.tape.squares import squares_behind

from .support import POINTS, both_comms, check_derivatives, wave

N = len(POINTS)
VALUES = np.array([0.1, np.nan, -0.4, 2.0, np.nan, 0.7])
SEEN = ~np.isnan(VALUES)


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(4, 4)


@pytest.fixture(scope="module")
def stations(mesh):
    return femnn.Stations(mesh, POINTS, names="abcdef")


@pytest.mark.parametrize("std", [0.2, np.linspace(0.1, 0.6, N)], ids=["number", "places"])
@pytest.mark.parametrize("loss", [None, femnn.Huber(1.0), femnn.StudentT(3)], ids=str)
def test_value_residuals_and_derivatives(mesh, stations, std, loss):
    u = wave(FunctionSpace(mesh, "CG", 1))
    data = femnn.Observations(stations, VALUES, std, loss=loss)
    continue_annotation()
    observe = data.start()
    observe(u**2)
    J = observe.misfit()
    total = 0.5 * J + femnn.assemble(u**4 * dx)
    pause_annotation()
    model = np.asarray(stations(u**2))
    expected = ((model - VALUES) / std)[SEEN]
    np.testing.assert_allclose(observe.residuals, expected)
    np.testing.assert_array_equal(observe.model, np.where(SEEN, model, np.nan))
    half_squares = {None: expected**2 / 2}
    costs = half_squares.get(loss, loss and loss.value(expected))
    assert pytest.approx(costs.sum(), rel=1e-14) == J
    (squares,) = squares_behind(total, get_working_tape())
    assert squares.node is observe.residuals.block_variable
    slope = loss.slope(expected) if loss else expected
    np.testing.assert_allclose(squares.curvature() * expected, slope)
    check_derivatives(total, [u], [wave(u.function_space(), 1)])


@pytest.mark.parametrize("loss", [None, femnn.Huber(1.0), femnn.StudentT(3)], ids=str)
def test_gauss_newtons_matrix(mesh, stations, loss):
    """J^T W J, from tangents and adjoints of the residuals and what the block gives for W."""
    u = wave(FunctionSpace(mesh, "CG", 1))
    sigma = Constant(0.2)
    data = femnn.Observations(stations, VALUES, scale=sigma, loss=loss)
    continue_annotation()
    J = 3 * data.misfit(u**2)
    pause_annotation()
    direction = wave(u.function_space(), 1)
    found = gauss_newton_product(J, Control(u), direction, get_working_tape())
    (squares,) = squares_behind(J, get_working_tape())
    rhat = ReducedFunctional(squares.node.output, Control(u))
    rhat(u)
    tangent = rhat.tlm(direction)
    expected = rhat.derivative(adj_input=tangent * squares.curvature() * 3)
    assert np.linalg.norm(expected.dat.data_ro) > 1
    np.testing.assert_allclose(found.dat.data_ro, expected.dat.data_ro, atol=1e-12)
    assert direction._ad_dot(found) > 0


@pytest.mark.parallel([1, 2, 3])
def test_the_same_on_any_number_of_ranks():
    """Vectors of a nonlinear law, one component of one of them missing."""
    found = []
    values = np.column_stack([VALUES, np.linspace(0, 1, N)])
    for comm in both_comms():
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(4, 4, comm=comm)
        w = wave(VectorFunctionSpace(mesh, "CG", 1))
        law = femnn.NeuralCoefficient(
            femnn.MLP(2, 4, 1, seed=1), w, space=FunctionSpace(mesh, "CG", 1)
        )
        data = femnn.Observations(femnn.Stations(mesh, POINTS), values, 0.3, loss=femnn.StudentT())
        continue_annotation()
        J = data.misfit(law * w)
        pause_annotation()
        directions = [wave(w.function_space(), 1), law.weights * 0 + 1]
        found.append([J, *check_derivatives(J, [w, law.weights], directions)])
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-9)


def test_gaps_have_no_influence(mesh, stations):
    v = TestFunction(FunctionSpace(mesh, "DG", 0))
    u = Function(v.function_space())
    continue_annotation()
    J = femnn.Observations(stations, VALUES, 0.2).misfit(u)
    pause_annotation()
    gradient = ReducedFunctional(J, Control(u)).derivative()
    assert np.count_nonzero(gradient.dat.data_ro) == SEEN.sum()


def test_what_can_be_read(stations):
    data = femnn.Observations(stations, VALUES, 0.2, units="m", name="head")
    np.testing.assert_array_equal(data.values, VALUES)
    np.testing.assert_array_equal(data.std, np.where(SEEN, 0.2, np.nan))
    assert (len(data), data.units, data.names[2]) == (4, "m", "c")
    assert repr(data) == "Observations(head, 4 values of 'a', 'b', 'c' and 3 more)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": VALUES[:4]}, r"values of shape \(4,\): wanted \(6,\)"),
        ({"values": VALUES * np.nan}, "all values are NaN"),
        ({"values": ["high"] * N}, "values that are no array of numbers"),
        ({"values": np.where(SEEN, VALUES, np.inf)}, "the value at b is infinite"),
        ({"std": None}, "got no std"),
        ({"std": 0.0}, r"std must be positive.* but is '0 at a', '0 at c', '0 at d' and 1 more"),
        ({"std": [1, 1, -1, 1, 1, 1]}, "but is '-1 at c'"),
        ({"std": [1, 1, np.nan, 1, 1, 1]}, "but is 'nan at c'"),
        ({"std": [1.0, 2.0]}, r"std of shape \(2,\)"),
        ({"correlation": 0.1}, "correlation=... without times"),
        ({"times": [0.0, 1.0]}, r"values of shape \(6,\): wanted \(2, 6\)"),
        ({"scale": Constant([1.0, 2.0])}, "wanted one number, or 6"),
    ],
)
def test_wrong_data(stations, change, message):
    with pytest.raises(ValueError, match=message):
        femnn.Observations(**{"at": stations, "values": VALUES, "std": 0.1, **change})


def test_std_is_not_asked_for_in_gaps(stations):
    std = np.where(SEEN, 0.1, np.nan)
    assert len(femnn.Observations(stations, VALUES, std)) == SEEN.sum()


def test_wrong_kinds(mesh, stations):
    with pytest.raises(TypeError, match="got a list as what is observed"):
        femnn.Observations(POINTS.tolist(), VALUES, 0.1)
    with pytest.raises(TypeError, match="wanted a Constant or a Function on the Real space"):
        femnn.Observations(stations, VALUES, scale=0.1)
    with pytest.raises(TypeError, match="as its function"):
        femnn.ErrorModel(Constant(0.1))
    for make in (femnn.Huber, femnn.StudentT):
        with pytest.raises(ValueError, match="wanted a positive number"):
            make(0)


def test_a_model_of_another_shape(mesh, stations):
    data = femnn.Observations(stations, VALUES, 0.1)
    with pytest.raises(
        ValueError, match=r"gives values of shape \(6, 2\), the data are for \(6,\)"
    ):
        data.misfit(grad(wave(FunctionSpace(mesh, "CG", 1))))


def test_wrong_units_are_noticed_once(stations, recwarn):
    data = femnn.Observations(stations, VALUES + 273, 0.1)
    with pytest.warns(
        UserWarning, match="data go from 272.6 to 275.*values from 1 to 1.*same unit"
    ):
        data.misfit(Constant(1.0))
    recwarn.clear()
    data.misfit(Constant(1.0))
    assert not recwarn.list


@pytest.mark.parallel(2)
def test_data_that_differ_between_ranks(mesh):
    stations = femnn.Stations(mesh, POINTS)
    for values, std in ((VALUES + COMM_WORLD.rank, 0.1), (VALUES, 0.1 + COMM_WORLD.rank)):
        with pytest.raises(RuntimeError, match="the data differ between ranks"):
            femnn.Observations(stations, values, std)


def test_losses_are_those_of_scipy():
    r = np.linspace(-6, 6, 41)
    np.testing.assert_allclose(femnn.Huber(1.3).value(r), scipy.special.huber(1.3, r))
    t = scipy.stats.t(3)
    np.testing.assert_allclose(femnn.StudentT(3).value(r), t.logpdf(0) - t.logpdf(r), atol=1e-14)


@pytest.mark.parametrize("loss", [femnn.Huber(1.3), femnn.StudentT(3)], ids=str)
def test_derivatives_of_losses(loss):
    r, h = np.linspace(-6, 6, 40), 1e-5
    np.testing.assert_allclose(
        loss.slope(r), (loss.value(r + h) - loss.value(r - h)) / (2 * h), atol=1e-8
    )
    np.testing.assert_allclose(
        loss.bend(r), (loss.slope(r + h) - loss.slope(r - h)) / (2 * h), atol=1e-8
    )
    np.testing.assert_allclose(loss.weight(r) * r, loss.slope(r))


@pytest.mark.parametrize("on", ["Constant", "Real space"])
def test_an_unknown_std_is_found_where_the_likelihood_is_largest(mesh, stations, on):
    """It is the root mean square of the differences."""
    u = wave(FunctionSpace(mesh, "CG", 1))
    R = FunctionSpace(mesh, "R", 0)
    sigma = Constant(0.5) if on == "Constant" else Function(R).assign(0.5)
    data = femnn.Observations(stations, VALUES, scale=sigma)
    continue_annotation()
    J = data.misfit(u)
    pause_annotation()
    differences = (np.asarray(stations(u)) - VALUES)[SEEN]
    norm = scipy.stats.norm(0, 0.5)
    constant = SEEN.sum() * np.log(2 * np.pi) / 2
    assert pytest.approx(-norm.logpdf(differences).sum() - constant, rel=1e-12) == J
    best = sigma._ad_copy().assign(np.sqrt(np.mean(differences**2)))
    Jhat = ReducedFunctional(J, Control(sigma))
    assert float(Jhat(best)) < J
    assert abs(best._ad_dot(Jhat.derivative())) < 1e-12
    direction = sigma._ad_copy().assign(0.1)
    check_derivatives(J, [sigma, u], [direction, wave(u.function_space(), 1)])


def test_one_std_for_each_station(mesh, stations):
    sigma = Constant(np.linspace(0.1, 0.6, N))
    model = np.asarray(stations(wave(FunctionSpace(mesh, "CG", 1))))
    J = femnn.Observations(stations, VALUES, scale=sigma).misfit(wave(FunctionSpace(mesh, "CG", 1)))
    norm = scipy.stats.norm(0, np.linspace(0.1, 0.6, N)[SEEN])
    constant = SEEN.sum() * np.log(2 * np.pi) / 2
    logpdf = norm.logpdf((model - VALUES)[SEEN])
    assert pytest.approx(-logpdf.sum() - constant, rel=1e-12) == J


def test_an_error_model_must_be_positive(mesh, stations):
    scale = femnn.ErrorModel(lambda model, a: a * model, Constant(1.0))
    data = femnn.Observations(stations, VALUES, scale=scale)
    with pytest.raises(ValueError, match="makes the standard deviation -1 at a: wanted a positive"):
        data.misfit(Constant(-1.0))
