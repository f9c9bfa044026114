"""The study of rivers: a made river, water that stays, a known n, the real record, bad files."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pyadjoint import taylor_test

import femnn
from demos.studies.rivers import __main__ as rivers
from demos.studies.rivers import synthetic
from demos.studies.rivers.data import ABOVE, GAUGES, nearest, read_river
from demos.studies.rivers.judging import WHOLE, Cutting, lags, rmse
from demos.studies.rivers.laws import KnotLaw, NetworkLaw, PowerLaw, Proportional, Runoff
from demos.studies.rivers.model import Rivers
from demos.studies.rivers.training import Trained, coverage, fit_errors, scores, train
from demos.studies.rivers.tree import Reach, Tree

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "severn_river"
AREA = dict(zip(GAUGES, (3700.0, 4300.0, 1500.0, 6900.0, 2200.0, 9900.0), strict=True))
Y = [
    Reach("a", "j", 20, 1000, 135, between=0),
    Reach("b", "j", 30, 500, 45, between=0),
    Reach("j", "g", 15, 1500, between=0),
    Reach("g", "end", 40, 1600, between=1),
]


def made_rivers(cut=(), parts=2, days=10, runoff=True, law=None, seed=0):
    """A small tree with random inflow, and with a recurrent network beside it."""
    random, tree = np.random.default_rng(seed), Tree(Y, 8000, cut)
    inflow = {name: random.uniform(20, 120, (parts, days)) for name in tree.inlets}
    beside = Runoff(random.normal(size=(2, parts, 5 + days, 2)), 5, 3) if runoff else None
    return Rivers(tree, law or NetworkLaw(3), inflow, beside, np.array([300.0, 200.0]))


def test_the_tree():
    """Lengths, shares and what joins are those of the reaches, cut or not."""
    for cut, outlets in (((), {"end"}), (("g",), {"end", "g"})):
        tree = Tree(Y, 8000, cut)
        inner = tree.share.sum(axis=1) > 0
        gathering = 50.0 * len(outlets)
        assert tree.length[inner].sum() == pytest.approx(105e3 + gathering)
        assert np.allclose(tree.share.sum(axis=0), 1)
        assert set(tree.gathers) == outlets
    tree = Tree(Y, 8000)
    passed = tree.passed({"a": np.array([2.0]), "b": np.array([3.0])})
    assert passed[0, tree.node["end"]] == pytest.approx(5)
    assert passed[0, tree.node["b"]] == pytest.approx(3)


@pytest.mark.parametrize(
    ("reaches", "cut", "told"),
    [
        ([*Y, Reach("a", "end", 3, 1)], (), "a would flow in two directions"),
        (Y, ("a",), "cannot cut at a"),
        ([Reach("a", "b", 1, 1), Reach("b", "a", 1, 1)], (), "flow in a circle"),
    ],
)
def test_no_tree(reaches, cut, told):
    with pytest.raises(ValueError, match=told):
        Tree(reaches, 1000, cut)


@pytest.mark.parametrize("cut", [(), ("g",)])
def test_water_is_conserved(cut):
    """What came in has passed or is stored; a steady flow stays as it is."""
    model = made_rivers(cut)
    found = model.balance()
    assert abs(found["from the side"]) > 0.1
    assert abs(found["left"]) < 1e-11 * found["came in"]
    steady = made_rivers(cut, runoff=False)
    for q in steady.inflow.values():
        q[:] = q[:, :1]
    if cut:
        steady.inflow["g"][:] = steady.inflow["a"] + steady.inflow["b"]
    flow = steady.simulate(["a", "g", "end"])
    total = steady.inflow["a"] + steady.inflow["b"]
    assert np.allclose(flow[:, 0], steady.inflow["a"], rtol=1e-9)
    assert np.allclose(flow[:, 2], total, rtol=1e-9)


def test_what_gathers_is_what_passes():
    """Stations behind an outlet see the flow through it."""
    model = made_rivers(("g",))
    flow = model.simulate()
    data = model.observations(flow, 0, std=1.0)
    observe = data.start()
    model.march(observe)
    seen = np.moveaxis(observe.model.reshape(10, 2, 2), 0, 2)
    assert np.allclose(seen, flow, rtol=1e-7)


def test_a_small_wave_travels_at_the_celerity():
    """The mean delay of a small change is the length over dQ/dA, with a law of each kind."""
    tree = Tree([Reach("a", "end", 60, 4000)], 3000)
    for law in (PowerLaw(), KnotLaw(), NetworkLaw(4)):
        with torch.no_grad():
            for p in law.parameters():
                p.add_(0.1 * torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape) / 5)
        inflow = np.full((1, 12), 100.0)
        inflow[0, 1] = 101.0
        model = Rivers(tree, law, {"a": inflow}, steps=4)
        wave = model.simulate()[0, 0] - 100.0
        assert wave.sum() == pytest.approx(1, abs=1e-3)
        delay = (wave @ np.arange(12)) / wave.sum() - 1
        section = law.section(np.array([100.0]), np.array([4000.0]), np.array([3e-4]))
        c = femnn.evaluate(law, section, 4000.0, 3e-4)[0, 1]
        in_the_cascade = (tree.length.sum() - tree.length[tree.gathers["end"]]) / c / 86400
        half_a_step = 0.5 / 4  # inflow begins at once, a step's end sees it
        assert delay == pytest.approx(in_the_cascade, abs=half_a_step)


def test_the_gradient():
    """Of law and runoff together, at a place other than where it was recorded."""
    model = made_rivers(("g",), parts=2, days=6)
    random = np.random.default_rng(1)
    data = model.observations(random.uniform(20, 200, (2, 2, 6)), 2, std=5.0)
    Jhat = model.record(data, precision=1.0)
    here = [w.like(w.vector + random.normal(0, 0.2, len(w.vector))) for w in model.controls]
    there = [w.like(random.normal(0, 0.1, len(w.vector))) for w in model.controls]
    assert taylor_test(Jhat, here, there) > 1.9


def test_a_known_n():
    """Manning's n from hourly discharge of floods: a network finds what one number cannot."""
    found = synthetic.learn(parts=2, hours=12, iterations=5)
    assert found["network"]["n off by"] < 0.1 < found["constant"]["n off by"]


def made_record(folder, days=900, seed=0):
    """A record whose flow at the gauges is that of a power law and of a store of rain."""
    random = np.random.default_rng(seed)
    rain = {n: random.gamma(0.4, 6, days) for n in GAUGES}
    store, runoff = 0.0, np.zeros(days)
    for day in range(days):
        store += rain["Haw Bridge"][day]
        runoff[day] = 0.15 * store
        store -= runoff[day]
    lines = [_header()]
    flow = {n: AREA[n] / 86.4 * runoff * random.uniform(0.9, 1.1) for n in GAUGES if n not in ABOVE}
    between = {n: AREA[n] - sum(AREA[u] for u in ABOVE[n]) for n in ABOVE}
    for name, uppers in ABOVE.items():
        above = sum(flow[u] for u in uppers)
        late = np.r_[above[:1], 0.5 * above[1:] + 0.5 * above[:-1]]
        flow[name] = late + between[name] / 86.4 * runoff
    for day, date in enumerate(np.arange("2001-01-01", "2004-01-01", dtype="datetime64[D]")[:days]):
        q = [f"{flow[n][day] * 86.4 / AREA[n]:.5f}" for n in GAUGES]
        q[3] = "" if day == 49 else q[3]
        p = [f"{rain['Haw Bridge'][day]:.3f}"] * len(GAUGES)
        lines.append(",".join([str(date), *q, *p, *["1.0"] * len(GAUGES)]))
    (folder / "daily.csv").write_text("\n".join(lines) + "\n")
    areas = [f"{GAUGES[n]},{a}" for n, a in AREA.items()]
    (folder / "gauges.csv").write_text("\n".join(["gauge_id,area_km2", *areas]) + "\n")


def _header():
    kinds = [f"{kind}_{i}_mm_day" for kind in ("Q", "P", "PET") for i in GAUGES.values()]
    return ",".join(["date", *kinds])


def test_the_study(tmp_path, monkeypatch):
    """The whole run on a made record, with trainings of a few iterations."""
    made_record(tmp_path)
    name = "kinematic wave, constant celerity"
    monkeypatch.setattr(rivers, "WAVES", {name: rivers.WAVES[name]})
    monkeypatch.setattr(synthetic, "learn", partial(synthetic.learn, hours=8))
    folder = tmp_path / "results"
    sizes = "--years 2001 2001 2002 2003 2003 --iterations 4 --part 12 --history 20 --width 3"
    sizes += " --hidden 3 --precision 0.1 --floods 1 --gauss-newton 1"
    numbers = rivers.main(["--data", str(tmp_path), "--output", str(folder), *sizes.split()])
    rows = numbers["rmse"]
    for gauge in ABOVE:
        late = {model: row["held_out"][gauge] for model, row in rows.items()}
        assert late["network in the river"] < 0.9 * late["same day"]
    balance = numbers["balance"]
    assert abs(balance["left"]) < 1e-10 * balance["came in"]
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_law_and_runoff_are_learned_together():
    """From flow at the end alone: a known law, and water from the side that follows the rain."""
    random, tree = np.random.default_rng(0), Tree([Reach("a", "end", 60, 2000)], 15000)
    inflow = {"a": 30 + 200 * random.random((6, 8)) ** 3}
    rain = random.gamma(0.5, 4, (1, 6, 10, 1))
    rained = 0.5 * rain[..., 2:, 0] + 0.3 * rain[..., 1:-1, 0] + 0.2 * rain[..., :-2, 0]
    between = np.array([500.0])
    truth = PowerLaw()
    with torch.no_grad():
        truth.p.copy_(torch.tensor([-0.4, 0.1, 0.0]))
    beside = Proportional(rained)
    with torch.no_grad():
        beside.p[0, 0] = 1.0
    made = Rivers(tree, truth, inflow, beside, between)
    exact = made.simulate()
    model = Rivers(tree, PowerLaw(), inflow, Runoff(rain, 2, 3), between)
    model.first = made.initial()
    before = rmse(model.simulate()[..., 3:], exact[..., 3:])
    Jhat = model.record(model.observations(exact, 3, std=1.0))
    femnn.fit(Jhat, maxiter=25, progress=False)
    assert rmse(model.simulate()[..., 3:], exact[..., 3:]) < 0.2 * before


def test_the_nearest_gauges():
    assert nearest("Haw Bridge", ("Saxons Lode",)) == ["Saxons Lode", "Evesham"]
    assert nearest("Haw Bridge", ("Bewdley",)) == ["Bewdley", "Knightsford", "Evesham"]
    assert nearest("Haw Bridge", ()) == ["Buildwas", "Knightsford", "Evesham"]


def test_bands():
    """Errors that grow with the flow are found, and their bands hold what they say."""
    random = np.random.default_rng(0)
    model = random.gamma(1, 80, 4000)
    measured = model + (2 + 0.1 * model) * random.standard_normal(4000)
    a, b = fit_errors({"x": measured}, {"x": model}, np.ones(4000, bool))["x"]
    assert a == pytest.approx(2, rel=0.1)
    assert b == pytest.approx(0.1, rel=0.1)
    assert coverage(measured, model, (a, b)) == pytest.approx(0.9, abs=0.02)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the measured records are not at {REAL}")
def test_real_days():
    """What is known of the record, and a wave of a winter beside the sum of the same day."""
    river = read_river(REAL)
    assert len(river) == 11536
    assert sum(np.isnan(q).sum() for q in river.flow.values()) == 3
    assert np.allclose(river.between, [607.22, 1051.33, 812.63], atol=0.01)
    days = river.years <= 1999
    found = scores(Cutting(river), lags(river, days), (2000, 2015))
    assert found["Bewdley"] == pytest.approx(9.61, abs=0.1)
    cutting = Cutting(river)
    rows = cutting.rows(1986, 1986)[:4]
    trained = Trained(PowerLaw(), Proportional(river.from_above(WHOLE)[:, rows]))
    model = cutting.model(trained.law, trained.runoff, rows)
    train(cutting, trained, model, rows, 6, 0.0, None, "L-BFGS")
    series = cutting.series(rows, model.simulate(ABOVE), 1986)
    for name, values, gain in zip(ABOVE, series, (1.0, 0.8, 1.0), strict=True):
        known = np.isfinite(values)
        of_the_day = sum(river.filled[u] for u in ABOVE[name])[known]
        wanted = river.flow[name][known]
        assert rmse(values[known], wanted) < gain * rmse(of_the_day, wanted)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("daily", None, ["there is no file", "airGRiwrm", "--data FOLDER"]),
        ("daily", "date\n2001-01-01\n", ["lacks the columns Q_54095_mm_day"]),
        ("daily", "{header}\n2001-01-01,{x}\n", ["cannot be read", "1984-03-01"]),
        ("daily", "{header}\n2001-01-01,{1}\n2001-01-03,{1}\n", ["not one day after the other"]),
        ("daily", "{header}\n2001-01-01,{0}\n2001-01-02,{0}\n", ["has no numbers in Q_54095"]),
        ("gauges", "gauge_id,area_km2\n54001,3\n", ["lacks the gauges 54095"]),
        ("gauges", "", ["lacks the columns gauge_id, area_km2", "no rows"]),
    ],
)
def test_bad_files(tmp_path, name, text, told):
    """Each error says what came, what was wanted and where the data come from."""
    made_record(tmp_path, 20)
    path = tmp_path / f"{name}.csv"
    if text is None:
        path.unlink()
    else:
        text = text.replace("{header}", _header())
        for key, value in (("{x}", "x"), ("{1}", "1"), ("{0}", "")):
            text = text.replace(key, ",".join([value] * 18))
        path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        rivers.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    for part in [*told, "airGRiwrm"]:
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_given():
    with pytest.raises(SystemExit, match=r"no data folder was given.*--data FOLDER"):
        rivers.main([])
