"""The study of many sites: a known law at made stations, ranks, the real record, and bad files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi4py import MPI
from pyadjoint import Control, ReducedFunctional, taylor_test

import femnn
from demos.studies.common import recording
from demos.studies.common import rms_of_known as rms
from demos.studies.many_sites import __main__ as many_sites
from demos.studies.many_sites import comparison, data
from demos.studies.many_sites.data import PLACE, TEMPERATURES, WATER, Record, read_record
from demos.studies.many_sites.judging import judge, straight_line
from demos.studies.many_sites.laws import USUAL, ByAttributes, EachStation, FromLag, OneForAll
from demos.studies.many_sites.model import DAY, SPACING, Columns, spread
from demos.studies.many_sites.surrogate import Sampler, box, fit_surrogate, surrogate_error

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "uscrn_2020"
NOISE = 0.02  # K, of the made data
BASELINES = many_sites.baselines
CHOSEN = [0, 10, 20, 40]  # of the fitted stations


def made_record(n=6, days=20, seed=0):
    """Stations whose diffusivity grows with the logarithm of rain, by columns with that law."""
    random, t = np.random.default_rng(seed), np.arange(days)
    filled = np.empty((days, n, 5))
    for i in range(n):
        above = 10 + 0.1 * t + 4 * np.sin(np.cumsum(random.normal(0, 0.3, days)))
        below = 8 + 0.05 * (i + 1) * t
        filled[:, i] = above[:, None] + np.linspace(0, 1, 5) * (below - above)[:, None]
    place = {name: np.ones(n) for name in PLACE}
    place["precip_mm_year"] = random.permutation(300.0 * 8 ** np.linspace(0, 1, n))
    water = np.tile(np.linspace(0.1, 0.4, 5), (n, 1))
    names = tuple(f"{i:05d}" for i in range(n))
    dates = np.datetime64("2020-01-01") + t
    record = Record(names, dates, filled, filled, place, water)
    columns = Columns(record, known_law(record), range(n))
    filled[1:, :, 1:-1] = columns.by_station(columns.simulate())[1:]
    record.measured = filled.copy()
    record.measured[:, :, 1:-1] += random.normal(0, NOISE, (days, n, 3))
    record.measured[5:8, 0, 1] = np.nan
    return record


def known_law(record):
    rain = np.log(record.place["precip_mm_year"])
    law = EachStation(len(record), 2)
    with torch.no_grad():
        law.p.copy_(torch.from_numpy(np.column_stack([0.4 * (rain - 7), 0.8 - 0.6 * (rain - 7)])))
    return law


def write(folder, record):
    stations = [",".join(("station", *PLACE, *WATER))]
    daily = [",".join(("station", "date", *TEMPERATURES))]
    for i, name in enumerate(record.names):
        numbers = (*(record.place[c][i] for c in PLACE), *record.water[i])
        stations.append(",".join((name, *map(str, numbers))))
        for day, temperatures in zip(record.days, record.measured[:, i], strict=True):
            cells = ("" if np.isnan(x) else f"{x:.5f}" for x in temperatures)
            daily.append(",".join((name, str(day), *cells)))
    (folder / "stations.csv").write_text("\n".join(stations) + "\n")
    (folder / "daily.csv").write_text("\n".join(daily) + "\n")


def few_baselines(record):
    """The baselines that the figure and the surrogate ask for."""
    wanted = ("one diffusivity", "one profile", "a profile for each station")
    return {name: law for name, law in BASELINES(record).items() if name in wanted}


def test_the_study(tmp_path, monkeypatch, capsys):
    """The whole run on made stations, whose diffusivity hangs on rain."""
    write(tmp_path, made_record(12))
    monkeypatch.setattr(many_sites, "baselines", few_baselines)
    monkeypatch.setattr(data, "LEAST_DAYS", 20)
    monkeypatch.setattr(comparison, "TESTS", 2)
    folder = tmp_path / "results"
    sizes = "--every 2 --laws nothing:0 place:0 --rounds 3 --iterations 2 --draws 6 --samples 4"
    sizes += " --epochs 30 --reach 1.0"
    numbers = many_sites.main(["--data", str(tmp_path), "--output", str(folder), *sizes.split()])
    rmse = numbers["rmse"]
    assert rmse["a profile for each station"]["held_out"] < 1.2 * NOISE
    assert rmse["attributes"]["knows"] == "place"
    assert rmse["attributes"]["held_out"] < 1.5 * NOISE < 0.2 * rmse["one profile"]["held_out"]
    assert min(numbers["known_by_attributes"]) > 0.7
    assert numbers["straight_line"]["held_out"] > rmse["one diffusivity"]["held_out"]
    assert numbers["bands"]["errors alone"] == pytest.approx(0.9, abs=0.05)
    assert 0.8 < numbers["bands"]["coverage"] <= 1
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "a profile for each station" in capsys.readouterr().out


def test_heat_is_conserved():
    """What is stored comes through the ends; without differences nothing changes."""
    record = made_record(4)
    columns = Columns(record, known_law(record), [1, 3])
    budget = columns.heat_budget()
    assert budget["left in a step"] < 1e-10 * budget["stored and given back"]
    record.filled[:] = 7.0
    assert np.allclose(columns.simulate()[1:], 7.0, rtol=0, atol=1e-12)


def test_a_mode_decays_as_it_should():
    """With one diffusivity sine modes decay by a known factor in each step of this scheme."""
    record = made_record(4)
    record.filled[:] = 20.0
    columns = Columns(record, OneForAll(1), [0, 2])
    height = record.depths[-1] - record.depths[0]
    mode = 5 * np.sin(np.pi * (columns.depth - record.depths[0]) / height)
    laplacian = 2 * (1 - np.cos(np.pi * SPACING / height)) / SPACING**2
    found = []
    columns._profile = lambda: columns.last.copy(deepcopy=True)
    columns.last.dat.data[:] = 20 - mode
    columns.n_steps = 3
    columns.simulate(lambda T, time: found.append(T.dat.data_ro.copy()))
    decay = 1 / (1 + DAY * USUAL * laplacian)
    for step, values in enumerate(found):
        assert np.allclose(values, 20 - mode * decay**step, rtol=0, atol=1e-10)


def test_the_lag_says_the_diffusivity():
    """In a half space of one diffusivity the formula of the lag has it exactly."""
    D, t = 5e-7, np.arange(366)[:, None, None]
    omega = 2 * np.pi / 365.25
    damping = np.sqrt(omega / (2 * DAY * D)) * Record.depths
    filled = 10 + 8 * np.exp(-damping) * np.cos(omega * t - damping) * np.ones((1, 3, 1))
    record = Record(("a", "b", "c"), t.ravel(), filled, filled, {}, np.zeros((3, 5)))
    law = FromLag(record.lag, record.depths[-1] - record.depths[0])
    assert np.allclose(USUAL * np.exp(law.theta_of(range(3))), D, rtol=1e-6)


def test_the_gradient():
    record = made_record(4)
    law = ByAttributes(record.standard("place+lag"), record.fitted, 3)
    w = femnn.Weights.of(law)
    w.assign(w.vector + np.random.default_rng(1).normal(0, 0.3, len(w.vector)))
    Jhat = spread(record, law, record.fitted, 5, prior=femnn.GaussianPrior(w))
    direction = w.like(np.random.default_rng(2).normal(0, 0.1, len(w.vector)))
    assert taylor_test(Jhat, w.like(w.vector), direction) > 1.9


def test_a_surrogate_of_values_and_gradients():
    """The sampled gradients are those of the misfit, and they help."""
    record = made_record(8, 15)
    stations = list(range(8))
    sampler = Sampler(record, stations, 2)
    theta = box(8, len(stations), np.array([0.0, 0.5]), 0.8, 1)
    samples = sampler(theta)
    step = 1e-5 * np.array([1.0, -0.5])
    ahead, behind = (sampler(theta[:1] + sign * step).misfit[0] for sign in (1, -1))
    assert np.allclose(0.5 * (ahead - behind), samples.gradient[0] @ step, rtol=1e-4)
    test = sampler(box(3, len(stations), np.array([0.0, 0.5]), 0.8, 2))
    errors = [surrogate_error(fit_surrogate(samples, g, 250), test) for g in (True, False)]
    assert errors[0] < 0.7 * errors[1]


def on_one_tape(record, law, stations, every, noise, prior):
    """All stations on each rank."""
    with recording():
        J = Columns(record, law, stations, every, noise).misfit() + prior.energy()
        return ReducedFunctional(J, Control(prior.control))


@pytest.mark.parallel([1, 2, 3])
def test_stations_spread_over_ranks():
    """Losses and gradients are those of all stations on one tape, and so are trained laws."""
    record = made_record(6, 12)
    found = []
    for together in (True, False):
        law = ByAttributes(record.standard("place"), record.fitted, 2)
        w = femnn.Weights.of(law)
        w.assign(w.vector + np.random.default_rng(1).normal(0, 0.2, len(w.vector)))
        prior = femnn.GaussianPrior(w)
        Jhat = (spread if together else on_one_tape)(record, law, record.fitted, 6, 0.1, prior)
        first = float(Jhat(w.like(w.vector)))
        gradient = Jhat.derivative().vector
        result = femnn.fit(Jhat, "gauss-newton", maxiter=2, progress=False)
        held_out = judge(record, law)["held_out"]
        found.append((np.array([first]), gradient, np.array([result.loss, held_out])))
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())
        assert (MPI.COMM_WORLD.bcast(one) == one).all()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the measured records are not at {REAL}")
def test_real_stations():
    """A spring at a few stations, by one diffusivity and by a profile of each one's own."""
    record = read_record(REAL)
    assert len(record) == 61
    assert len(record.days) == 366
    assert np.isnan(record.measured).sum() == 138
    assert straight_line(record)["held_out"] == pytest.approx(0.798, abs=1e-3)
    spring = slice(100, 125)
    parts = (x[spring] for x in (record.days, record.measured, record.filled))
    part = Record(record.names, *parts, record.place, record.water)
    found = []
    for law in (OneForAll(1), EachStation(len(record), 2)):
        Jhat = spread(part, law, CHOSEN, 3)
        femnn.fit(Jhat, "gauss-newton", maxiter=4, ftol=1e-3, progress=False)
        found.append(rms(Columns(part, law, CHOSEN).errors()))
    assert found[1] < 0.8 * found[0] < 0.8


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("stations", "station", None, ["there is no file", "--data FOLDER"]),
        ("stations", "latitude_deg", "lat", ["lacks the columns latitude_deg", "it has station"]),
        ("stations", "\n1,", "\n0,", ["3 stations in 4 rows", "four or more"]),
        ("stations", "\n1,1,", "\n1,,", ["station 1", "has no latitude_deg", "leave it out"]),
        ("daily", "\n0,", "\n7,", ["cannot be read", "'7'", "stations of stations.csv"]),
        ("daily", "2020-01-01", "yesterday", ["cannot be read", "2020-01-05"]),
        ("daily", ",7,", ",,", ["station 0", "has no T_10cm_degC"]),
        ("daily", "T_5cm_degC", "T_5cm_degC", ["2 days", "183 or more"]),
    ],
)
def test_bad_files(tmp_path, name, old, new, told):
    """Each error says what came, what was wanted and where the data come from."""
    stations = [",".join(("station", *PLACE, *WATER)), *(f"{i}" + ",1" * 9 for i in range(4))]
    daily = [",".join(("station", "date", *TEMPERATURES))]
    for i in range(4):
        daily += [f"{i},2020-01-0{d},1,{9 if i else 7},3,4,5" for d in (1, 2)]
    files = {"stations": "\n".join(stations), "daily": "\n".join(daily)}
    assert old in files[name]
    for kind, text in files.items():
        if kind != name or new is not None:
            changed = text.replace(old, new) if kind == name else text
            (tmp_path / f"{kind}.csv").write_text(changed + "\n")
    with pytest.raises(SystemExit) as stopped:
        many_sites.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    for part in [*told, "daily01"]:
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_given():
    with pytest.raises(SystemExit, match=r"no data folder was given.*--data FOLDER"):
        many_sites.main([])
