"""Figures of laws: what is drawn, what is shaded, what is refused."""

import sys

import firedrake as fd
import numpy as np
import pytest
from matplotlib import pyplot as plt
from mpi4py import MPI

import femnn


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def kappa():
    """A law of a field between 2 and 5."""
    mesh = fd.UnitSquareMesh(3, 3)
    x, _ = fd.SpatialCoordinate(mesh)
    u = fd.Function(fd.FunctionSpace(mesh, "DG", 0)).interpolate(fd.conditional(x < 0.5, 2, 5))
    return femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, seed=2), u)


def line(ax, label):
    (found,) = [drawn for drawn in ax.lines if drawn.get_label() == label]
    return found.get_data()


def shaded(ax):
    """Lower and upper end of what is shaded."""
    return [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]


def test_a_network_over_a_range():
    net = femnn.MLP(1, 4, 1, seed=2)
    ax = femnn.plot_law(net, (0, 2), n=50, label="mine", color="C3")
    x, y = line(ax, "mine")
    assert np.array_equal(x, np.linspace(0, 2, 50))
    assert np.array_equal(y, femnn.evaluate(net, x))
    assert shaded(ax) == []
    assert ax.get_xlim() == (0, 2)
    assert next(iter(ax.lines)).get_color() == "C3"


def test_truth_and_visited_values():
    ax = femnn.plot_law(np.sin, visited=np.array([0.3, 1.3, 0.5]), truth=lambda x: 2 * x)
    x, y = line(ax, "learned")
    assert (x[0], x[-1]) == pytest.approx((0.2, 1.4)), "not a tenth more on both sides"
    assert np.array_equal(y, np.sin(x))
    assert np.array_equal(line(ax, "truth")[1], 2 * x)
    assert np.allclose(shaded(ax), [(0.3, 1.3)])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["visited range", "truth", "learned"]


def test_a_band():
    ax = femnn.plot_law(np.sin, (0, 1), n=50, band=lambda x: (np.sin(x) - x, np.sin(x) + 2 * x))
    (band,) = ax.collections
    x, y = band.get_paths()[0].vertices.T
    assert y[np.isclose(x, 1.0)].min() == pytest.approx(np.sin(1) - 1)
    assert y[np.isclose(x, 1.0)].max() == pytest.approx(np.sin(1) + 2)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["learned", "learned: band"]


def test_a_truth_that_is_constant():
    ax = femnn.plot_law(np.sin, (0, 1), truth=lambda x: 2.5)
    assert np.all(line(ax, "truth")[1] == 2.5)


@pytest.mark.parallel([1, 2, 3])
def test_a_coefficient_knows_its_range(kappa):
    ax = femnn.plot_law(kappa)
    assert np.allclose(shaded(ax), [(2, 5)])
    assert np.allclose(shaded(femnn.plot_law(kappa.net, visited=kappa)), [(2, 5)])


def test_a_second_law_on_the_same_axes(kappa):
    ax = femnn.plot_law(kappa, (1, 8), label="one")
    assert femnn.plot_law(np.cos, ax=ax, label="two") is ax
    assert line(ax, "two")[0][[0, -1]] == pytest.approx([1, 8])
    assert len(ax.patches) == 1
    assert len(plt.get_fignums()) == 1


def test_a_visited_range_of_one_value():
    ax = femnn.plot_law(np.sin, visited=[3.0, 3.0])
    assert ax.get_xlim() == pytest.approx((2.7, 3.3))


@pytest.mark.parametrize(
    ("law", "options", "error", "message"),
    [
        (np.sin, {}, ValueError, "no range is known: give range="),
        (np.sin, {"range": (1, 0)}, ValueError, r"range=\(1, 0\), wanted a pair"),
        (np.sin, {"range": (0, np.inf)}, ValueError, "wanted a pair"),
        (np.sin, {"range": 3}, ValueError, "wanted a pair"),
        (np.sin, {"visited": []}, ValueError, "visited is empty"),
        (np.sin, {"visited": [0, np.nan]}, ValueError, "not finite"),
        (3.0, {"range": (0, 1)}, TypeError, "law is a float, wanted a torch module"),
        (np.sin, {"range": (0, 1), "truth": 3.0}, TypeError, "truth is a float, wanted a function"),
        (np.sin, {"range": (0, 1), "band": 3.0}, TypeError, "band is a float, wanted a function"),
        (np.sin, {"range": (0, 1), "band": np.sin}, ValueError, "band gives values of shape"),
        (np.diff, {"range": (0, 1)}, ValueError, r"law gives values of shape \(399,\)"),
        (
            femnn.MLP(1, 3, 2),
            {"range": (0, 1)},
            ValueError,
            r"law gives values of shape \(400, 2\)",
        ),
        (femnn.MLP(2, 3, 1), {"range": (0, 1)}, ValueError, "does not take the 1 inputs"),
    ],
)
def test_wrong_arguments_open_no_figure(law, options, error, message):
    with pytest.raises(error, match=message):
        femnn.plot_law(law, **options)
    assert plt.get_fignums() == []


def test_a_coefficient_of_two_inputs():
    mesh = fd.UnitSquareMesh(2, 2)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 3, 1), fd.SpatialCoordinate(mesh))
    with pytest.raises(ValueError, match=r"has 2 inputs, wanted one.*kappa.visited\(\)\[i\]"):
        femnn.plot_law(kappa)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install femnn\[demos\]"):
        femnn.plot_law(np.sin, (0, 1))


@pytest.mark.parallel(2)
def test_one_rank_may_draw_a_network_alone():
    if MPI.COMM_WORLD.rank == 1:
        femnn.plot_law(femnn.MLP(1, 2, 1), visited=(0, 1))
    MPI.COMM_WORLD.barrier()


# Observations


@pytest.fixture
def data():
    """Two places, one with a gap; three times."""
    stations = femnn.Stations(fd.UnitSquareMesh(1, 1), [[0.2, 0.2], [0.7, 0.7]], ["a", "b"])
    values = [[1.0, 2.0], [1.5, np.nan], [2.0, 3.0]]
    return femnn.Observations(stations, values, 0.1, [0.0, 1.0, 2.0], units="m", name="head")


def test_observations_in_time(data):
    ax = femnn.plot_observations(data, np.nan_to_num(data.values) + 0.5, time_unit="d")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("t [d]", "head [m]")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    lines = [drawn.get_xydata() for drawn in ax.lines]
    assert len(lines) == 4
    np.testing.assert_array_equal(lines[2], [[0, 2], [2, 3]])
    np.testing.assert_array_equal(lines[3], [[0, 2.5], [2, 3.5]])
    assert len(femnn.plot_observations(data, names=["b"]).lines) == 1
    held, _ = data.split(["b"])
    assert len(femnn.plot_observations(held).containers) == 1


def test_steady_observations(data):
    steady = femnn.Observations(data.at, [1.0, np.nan], 0.1)
    ax = femnn.plot_observations(steady, [1.5, 2.5])
    assert ax.get_ylabel() == "observed, model"
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 1.5], [np.nan, 2.5]])
    with pytest.raises(ValueError, match=r"give data\.at\(u\)"):
        femnn.plot_observations(steady)


def test_observations_that_are_not_drawn(data):
    with pytest.raises(ValueError, match=r"shape \(2,\): wanted \(3, 2\)"):
        femnn.plot_observations(data, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"names=\['c'\], which are not among \('a', 'b'\)"):
        femnn.plot_observations(data, names=["c"])
    with pytest.raises(ValueError, match="the data are vectors"):
        femnn.plot_observations(femnn.Observations(data.at, np.ones((2, 2)), 0.1), np.ones((2, 2)))
