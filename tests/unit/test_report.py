"""The report: statistics of residuals, findings, the page and its numbers."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.parallel import from_rank_zero
from femnn.reporting.residuals import by_place, in_space, in_time


def autoregressive(r, shape, seed=0):
    """Numbers of variance one along the first axis, each correlated by r with the one before."""
    draws = np.random.default_rng(seed).normal(size=shape)
    series = draws.copy()
    for i in range(1, len(series)):
        series[i] = r * series[i - 1] + np.sqrt(1 - r**2) * draws[i]
    return series


def test_autocorrelation_is_that_of_the_process():
    series = autoregressive(0.6, (400, 10))
    series[::7, 3] = np.nan
    found = in_time(series)
    assert len(found) == 20
    assert np.allclose([c.value for c in found[:4]], 0.6 ** np.arange(1, 5), atol=0.06)
    assert found[0].is_there
    assert found[0].widening == pytest.approx(2.0, rel=0.1)  # sqrt(1.6 / 0.4)
    white = in_time(autoregressive(0.0, (400, 10)))
    assert not white[0].is_there
    assert white[0].widening < 1.1
    assert in_time(series[:1]) == []


def test_neighbours_in_space():
    random = np.random.default_rng(1)
    points = random.uniform(0, 1, (300, 2))
    smooth = np.sin(6 * points[:, 0])[None]
    assert in_space(smooth, points).value > 0.9
    assert in_space(smooth, points).is_there
    assert not in_space(random.normal(size=(1, 300)), points).is_there
    two = in_space(np.array([[1.0, -1.0]]), points[:2])
    assert (two.value, two.pairs) == (-1.0, 1)
    assert not two.is_there


def test_rows_of_places():
    table = by_place(np.array([[[3.0], [np.nan]], [[4.0], [np.nan]]]))
    assert table["n"].tolist() == [2, 0]
    assert table["rms"][0] == pytest.approx(np.sqrt(12.5))
    assert table["mean"][0] == pytest.approx(3.5)
    assert np.isnan(table["rms"][1])


def test_weighted_residuals_are_those_of_the_misfit():
    """Whitened by the correlation in time, NaN in gaps."""
    mesh = UnitIntervalMesh(4)
    u = Function(FunctionSpace(mesh, "P", 1))
    values = np.array([[1.0, 2.0], [np.nan, 1.0], [0.5, 0.0]])
    stations = femnn.Stations(mesh, [0.2, 0.7])
    data = femnn.Observations(
        stations, values, 0.1, [0.0, 1.0, 3.0], correlation=2.0, scale=Constant(2.0)
    )
    observe = data.start()
    for t in (0.0, 1.0, 2.0, 3.0):
        observe(u.assign(t), t)
    observe.misfit()
    residuals = data.residuals(observe.model)
    assert np.array_equal(np.isnan(residuals), np.isnan(values))
    assert np.allclose(residuals[~np.isnan(values)], observe.residuals.vector)
    assert residuals[0, 0] == pytest.approx(-1 / 0.2)


class Page(HTMLParser):
    """What is on a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.images, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.headings if self.open and self.open[-1] == "h2" else self.words).append(data)


@pytest.fixture(scope="module")
def learned():
    """A law from twenty stations, of which three are held out, with its posterior."""
    get_working_tape().clear_tape()
    mesh = UnitSquareMesh(6, 6)
    V = FunctionSpace(mesh, "P", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    random = np.random.default_rng(4)
    stations = femnn.Stations(mesh, random.uniform(0.1, 0.9, (20, 2)))

    def problem(k):
        F = k(u) * inner(grad(u), grad(v)) * dx - 10 * v * dx
        return F == 0, u, DirichletBC(V, 0, "on_boundary")

    solve(*problem(lambda u: 1 + u**2))
    values = np.asarray(stations(u)) + random.normal(0, 0.005, 20)
    data = femnn.Observations(stations, values, 0.005, units="m", name="head <1>")
    seen, unseen = data.split(["3", "7", "11"])
    net = femnn.MLP(1, 4, 1, output="softplus", input_range=(0, 1), seed=1)
    kappa = femnn.NeuralCoefficient(net, u, name="kappa")
    continue_annotation()
    femnn.solve(*problem(lambda u: kappa))
    J = seen.misfit(u) + femnn.GaussianPrior(kappa.weights).energy()
    others = unseen.at(u)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    result = femnn.fit(Jhat, "gauss-newton", ftol=1e-5, maxiter=60, progress=False)
    posterior = femnn.laplace(Jhat)
    old = np.asarray(stations(u))
    femnn.solve(*problem(lambda u: kappa))
    model = np.asarray(stations(u))
    return {
        "old": (seen, old),
        "kappa": kappa,
        "data": (seen, model),
        "held_out": (unseen, model, posterior.predict(others).std),
        "posterior": posterior,
        "result": result,
        "u": u,
    }


def report(learned, path, **more):
    given = {key: learned[key] for key in ("data", "held_out", "posterior", "result")}
    truth = {"kappa": lambda u: 1 + u**2}
    return femnn.report(path, learned["kappa"], **{**given, "truth": truth, **more})


@pytest.mark.parallel([1, 2, 3])
def test_a_page_and_its_numbers(learned, tmp_path):
    folder = from_rank_zero(COMM_WORLD, tmp_path)
    mesh = learned["u"].function_space().mesh()
    balances = {
        "mass": {"rain": Constant(10.0) * dx(mesh), "out": -10.0},
        "heat": {"in": 1.0, "out": -0.9},
    }
    content = report(learned, folder / "new" / "law.html", balances=balances)
    law = content["laws"]["kappa"]
    assert law["error"] < 0.2
    assert law["coverage"] > 0.5
    (line,) = law["lines"]
    assert ((line["lower"] < line["value"]) & (line["value"] < line["upper"])).all()
    assert np.allclose(law["visited"], learned["kappa"].visited())
    assert content["balances"]["mass"]["relative"] < 1e-14
    assert content["balances"]["heat"]["relative"] == pytest.approx(0.1)
    findings = [f for f in content["findings"] if "balance" in f]
    assert findings == [
        "The balance of heat does not close: its terms add up to 0.1, 1.0e-01 of the largest."
    ]
    text = (folder / "new" / "law.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.headings[:2] == ["What to look at", "Law: kappa"]
    assert "Data: head <1>" in page.headings
    assert len(page.images) == 4  # law, data, spectrum, training
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert findings[0] in page.words
    numbers = json.loads((folder / "new" / "law.json").read_text())
    assert numbers["findings"] == content["findings"]
    assert numbers["training"]["solves"]["forward"] == learned["result"].solves.forward
    assert len(set(COMM_WORLD.allgather(json.dumps(numbers, sort_keys=True)))) == 1
    assert sorted(p.name for p in (folder / "new").iterdir()) == ["law.html", "law.json"]


def test_residuals_that_are_correlated_are_said(learned, tmp_path):
    """An error that all stations have in common: the page says that bands are too narrow."""
    seen, model = learned["data"]
    content = report(learned, tmp_path / "law.html", data=(seen, model + 0.02), held_out=())
    correlated = [f for f in content["findings"] if "correlated between neighbouring" in f]
    assert "too narrow" in correlated[0]
    assert any("more than errors explain" in f for f in content["findings"])
    content = report(learned, tmp_path / "law.html")
    assert content["findings"] == []
    assert "Nothing that was looked at" in (tmp_path / "law.html").read_text()


def test_values_of_before_the_fit_are_noticed(learned, tmp_path):
    """A functional's evaluation changes nothing of the user's: the model must be solved again."""
    content = report(learned, tmp_path / "law.html", data=learned["old"], held_out=())
    assert any("solve the model again after the fit" in f for f in content["findings"])


def test_times_and_several_inputs(tmp_path):
    """Autocorrelation in time, a law of two inputs, a network with a range, and what leaves it."""
    mesh = UnitIntervalMesh(20)
    u = Function(FunctionSpace(mesh, "P", 1)).interpolate(SpatialCoordinate(mesh)[0])
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 3, 1), u, SpatialCoordinate(mesh)[0])
    seen = femnn.Visited(kappa)
    u.assign(2 * u)
    stations = femnn.Stations(mesh, [0.1, 0.5, 0.8])
    model = np.zeros((60, 3))
    data = femnn.Observations(stations, autoregressive(0.8, (60, 3)), 1.0, np.arange(60.0))
    laws = {"k": kappa, "several": femnn.MLP(1, 3, 2)}
    visited = {"k": seen, "several": (0, 1)}
    content = femnn.report(tmp_path / "r.html", laws, [(data, model)], visited=visited)
    assert content["data"][0]["in_time"][0]["value"] == pytest.approx(0.8, abs=0.1)
    assert any("correlated in time" in f and "too narrow" in f for f in content["findings"])
    assert content["outside"]["k"] > 0.7  # x and u were the same, and are not now
    assert any("outside of what was visited" in f for f in content["findings"])
    assert len(content["laws"]["k"]["lines"]) == 2
    assert content["laws"]["several"]["lines"][0]["value"].shape == (201, 2)


def test_what_cannot_be_reported(learned, tmp_path):
    kappa, path = learned["kappa"], tmp_path / "law.html"
    wrong = [
        ((tmp_path / "law.txt", kappa), {}, ValueError, "wanted that of a page"),
        ((path, 3), {}, TypeError, "report: laws is a int: wanted a coefficient"),
        ((path, {"k": 3}), {}, TypeError, r"laws\['k'\] is a int"),
        ((path, {"k": kappa.net}), {}, ValueError, "whose range is not known"),
        ((path, kappa), {"truth": {"k": abs}}, ValueError, "truth has the name 'k'"),
        ((path, kappa), {"data": [3]}, TypeError, "wanted pairs of Observations"),
        ((path, kappa), {"balances": {"m": 3}}, TypeError, r"balances\['m'\] is a int"),
        ((path, kappa), {"balances": {"m": {"a": "b"}}}, TypeError, "the term 'a'"),
        ((path, kappa), {"truth": {"kappa": lambda u: u[:3]}}, ValueError, "a truth gives values"),
        ((path, kappa), {"level": 2}, ValueError, "wanted a probability"),
    ]
    for positional, named, error, message in wrong:
        with pytest.raises(error, match=message):
            femnn.report(*positional, **named)
    assert list(tmp_path.iterdir()) == []
