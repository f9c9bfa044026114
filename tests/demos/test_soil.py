"""The study of freezing soil: soil with a known law, the real record, and bad files."""

import copy
import csv
import functools
import json
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from firedrake import Constant
from pyadjoint import taylor_test

import femnn
from demos.studies.soil import __main__ as soil
from demos.studies.soil.data import DEPTHS_CM, Part, Record, Winters, read_record
from demos.studies.soil.fitting import errors_of
from demos.studies.soil.laws import USUAL, ByDepth, HandLaws, HybridLaws, NetworkLaws
from demos.studies.soil.model import PARAMETERS, Columns

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "fargo_soil_temperature.csv"
DEPTHS = np.array(DEPTHS_CM) / 100
N_DAYS = 20  # in each made winter
WATER = (1.6, 0.7, 1.2, 0.9)
NOISE = 0.03


@functools.cache
def _made():
    """Four short winters of soil that freezes by a hand-made law, each with another water."""
    days = np.arange(4 * N_DAYS + 2)
    random = np.random.default_rng(1)
    top = 8 * np.cos(2 * np.pi * days / N_DAYS) + random.normal(0, 1, len(days))
    share = (DEPTHS - DEPTHS[0]) / np.ptp(DEPTHS)
    filled = top[:, None] * (1 - share) + 3 * share
    record = Record(date(2014, 9, 1), DEPTHS, filled.copy(), filled, "")
    winters = Winters(record)
    for part, water in zip(winters.fitted + winters.held_out, WATER, strict=True):
        columns = Columns(record, known_law(), [Part(part.start, part.first, part.last, 0)])
        columns.log_w.assign(np.log([water]))
        filled[part.first : part.last + 1, 1:-1] = columns.simulate()[:, 0]
    record.measured[:] = filled + random.normal(0, NOISE, filled.shape)
    return record


def made_record():
    """The same, to be changed."""
    return copy.deepcopy(_made())


def known_law():
    laws = HandLaws()
    with torch.no_grad():
        laws.log_k.copy_(torch.linspace(0.3, -0.3, 8))
        laws.freezing.copy_(torch.tensor([-0.5, -0.3, 0.2, 0.4]))
    return laws


def write_csv(path, temperatures):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["station", "time_cst", *(f"T{d}cm" for d in DEPTHS_CM)])
        for day, values in enumerate(temperatures):
            time = datetime(2014, 9, 1, 12) + timedelta(days=day)
            cells = ["" if np.isnan(v) else f"{v:.4f}" for v in values]
            rows.writerow(["Fargo", time.strftime("%m/%d/%y %H:%M"), *cells])


def test_the_study(tmp_path, monkeypatch, capsys):
    """The whole run on made winters: water and law are found, and bands hold what was not seen."""
    measured = made_record().measured
    measured[10:12, 5] = np.nan
    write_csv(tmp_path / "made.csv", measured)
    monkeypatch.setattr(soil, "HAND_MADE", {soil.HAND: (HandLaws, True)})
    monkeypatch.setattr(soil, "LEARNED", {soil.NETWORKS: (NetworkLaws, True)})
    folder = tmp_path / "results"
    sizes = "--seeds 0 --parts 4 --forgotten 2 --every 2 --passes 2 --rounds 1 --iterations 2"
    sizes += " --draws 2 --waters 3"
    data = ["--data", str(tmp_path / "made.csv"), "--output", str(folder)]
    numbers = soil.main([*data, *sizes.split()])
    hand, networks = (numbers["models"][name] for name in (soil.HAND, soil.NETWORKS))
    assert hand["fitted"] < 2 * NOISE
    assert hand["log_evidence"] > networks["log_evidence"]
    ratio = np.subtract(*hand["log_w"])
    assert ratio == pytest.approx(np.log(WATER[0] / WATER[1]), abs=0.1)
    assert "2 of 1148 values are empty" in numbers["gaps"]
    assert soil.NETWORKS in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_heat_is_conserved():
    """What is stored, as heat of all water too, has flowed in; without a difference none flows."""
    record = made_record()
    columns = Columns(record, NetworkLaws(0), Winters(record).fitted)
    columns.log_w.assign(np.log(WATER[:2]))
    budget = columns.heat_budget()
    assert budget["left in a step"] < 1e-6 * budget["latent, in and out"]
    assert budget["through the ends, net"] > 1
    record.filled[:] = -0.4
    assert np.allclose(columns.simulate(), -0.4, rtol=0, atol=1e-9)


def test_a_mode_decays_as_it_should():
    """With constant properties a sine between the ends decays at its rate.

    But for what straight lines between thermometers, up to 25 cm apart, lack of it at first.
    """
    record = made_record()
    mode = np.sin(np.pi * (DEPTHS - DEPTHS[0]) / np.ptp(DEPTHS))
    record.filled[:] = 5 + 3 * mode
    record.filled[1:, [0, -1]] = 5.0
    columns = Columns(record, ByDepth((1.0,)), [Part(0, 1, 10, 0)])
    decay = 1 / (1 + USUAL * (np.pi / np.ptp(DEPTHS)) ** 2)
    exact = 5 + 3 * mode[1:-1] * decay ** np.arange(1, 11)[:, None]
    lacking = 3 * (np.pi / np.ptp(DEPTHS)) ** 2 * 0.25**2 / 8
    assert np.abs(columns.simulate()[:, 0] - exact).max() < lacking


@pytest.mark.parametrize("kind", [NetworkLaws, HybridLaws])
def test_the_gradient(kind, monkeypatch):
    """Of weights and water together, with steps that are solved to rounding."""
    monkeypatch.setitem(PARAMETERS, "snes_rtol", 1e-12)
    monkeypatch.setitem(PARAMETERS, "snes_atol", 1e-13)
    record = made_record()
    columns = Columns(record, kind(0), Winters(record).cut(2, 4), every=3)
    w, random = columns.weights, np.random.default_rng(1)
    w.assign(w.vector + random.normal(0, 0.2, len(w)))
    priors = femnn.GaussianPrior(w), femnn.GaussianPrior(columns.log_w, 9.0, fixed=True)
    Jhat = columns.record_density(*priors)
    at = w.like(w.vector), Constant([0.1, 0.2])
    along = w.like(random.normal(0, 0.005, len(w))), Constant([0.02, -0.03])
    assert taylor_test(Jhat, list(at), list(along)) > 1.95


@pytest.mark.parametrize("kind", [NetworkLaws, HybridLaws])
def test_heat_grows_with_temperature(kind):
    """Both parts of it, and k is positive, whatever the weights."""
    laws, generator = kind(0), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in laws.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        T = torch.linspace(-20, 30, 500, dtype=torch.float64)[:, None]
        z = torch.full_like(T, 0.4)
        assert bool((laws.sensible(T, z).diff(dim=0) > 0).all())
        assert bool((laws.latent(T, z).diff(dim=0) >= 0).all())
        assert laws.latent(T, z)[-1].item() == pytest.approx(0, abs=1e-12)
        assert bool((laws.conductivity(T, z) > 0).all())


def test_errors_are_found():
    """Size and memory of made errors, with gaps."""
    random, n = np.random.default_rng(4), 1000
    found = random.normal(0, 0.3, (n, 2, 2))
    for i in range(1, n):
        found[i] = np.exp(-2 / 7) * found[i - 1] + np.sqrt(1 - np.exp(-4 / 7)) * found[i]
    found[random.random(found.shape) < 0.2] = np.nan
    errors = errors_of(found, 2)
    assert np.allclose(errors.std, 0.3, rtol=0.1)
    assert np.allclose(errors.memory, 7, rtol=0.2)


@pytest.mark.skipif(not REAL.is_file(), reason=f"the measured record is not at {REAL}")
def test_the_real_record():
    """A freeze, by the hand-made law as fitted to it."""
    record = read_record(REAL)
    assert len(record) == 1475
    assert "666 of" in record.gaps
    assert np.isnan(record.measured).sum() == 28
    assert not np.isnan(record.filled).any()
    assert record.is_cold(np.array([0, 30, 120])).tolist() == [False, True, True]
    columns = Columns(record, HandLaws(), [Part(70, 71, 90, 0), Part(440, 441, 460, 1)], every=3)
    before = np.nanmean((columns.simulate() - columns.measured) ** 2)
    priors = [femnn.GaussianPrior(columns.weights), femnn.GaussianPrior(columns.log_w, 9.0)]
    femnn.fit(columns.record_density(*priors), "gauss-newton", maxiter=2, progress=False)
    assert np.nanmean((columns.simulate() - columns.measured) ** 2) < 0.3 * before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, ["there is no file", "Fargo, North Dakota", "PyNotes", "--data FILE"]),
        ("station,time_cst,T5cm\nFargo,10/2/14 12:00,3\n", ["lacks the columns T10cm"]),
        ("{header}\n", ["lacks the columns time_cst", "it has no rows"]),
        ("{header}\nyesterday,{cold}\n", ["line 2", "'yesterday'", "10/2/14 12:00"]),
        ("{header}\n10/2/14 12:00,{cold}\n", ["has 1 whole days", "at least 40"]),
    ],
)
def test_bad_files(tmp_path, text, told):
    """Each error says what came, what was wanted and where the data come from."""
    path = tmp_path / "data.csv"
    if text is not None:
        header = ",".join(["time_cst", *(f"T{d}cm" for d in DEPTHS_CM)])
        path.write_text(text.format(header=header, cold=",".join(["-1"] * 14)))
    with pytest.raises(SystemExit) as stopped:
        soil.main(["--data", str(path), "--output", str(tmp_path / "out")])
    for part in [*told, "PyNotes"]:
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_file_given():
    with pytest.raises(SystemExit, match=r"no data file was given.*NDAWN.*--data FILE"):
        soil.main([])
