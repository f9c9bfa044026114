"""The study of freezing soil: on soil with a known law, on the real record, and with bad files."""

import csv
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import femnn
from demos.studies.soil import __main__ as soil
from demos.studies.soil.data import COLUMNS, DEPTHS_CM, Runs, cut_runs, read_record
from demos.studies.soil.laws import HandLaws, NetworkLaws
from demos.studies.soil.model import Soil

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "fargo_soil_temperature.csv"
WINTER = 90  # days in each made winter


def made_temperatures(n_days):
    """Temperatures of soil that freezes by a hand-made law, days by thermometers."""
    depths = np.array(DEPTHS_CM) / 100
    days = np.arange(n_days + WINTER)
    weather = np.random.default_rng(1).standard_normal(len(days))
    top = 2 + 9 * np.cos(2 * np.pi * days / WINTER) + np.convolve(weather, [1, 1, 1], "same")
    bottom = 5 + 0.5 * np.sin(2 * np.pi * days / WINTER)
    share = (depths - depths[0]) / np.ptp(depths)
    filled = (top[:, None] * (1 - share) + bottom[:, None] * share)[:, None, :]
    runs = Runs(step=1, first_rows=[0], measured=filled, filled=filled)
    return Soil(HandLaws(freezing=True), runs, depths, [0.0]).simulate()[WINTER:, 0]


def write_csv(path, columns, temperatures):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for day, values in enumerate(temperatures):
            time = datetime(2014, 10, 2, 12) + timedelta(days=day)
            cells = ["" if np.isnan(v) else f"{v:.3f}" for v in values]
            rows.writerow(["Fargo", time.strftime("%m/%d/%y %H:%M"), *cells])


@pytest.fixture
def made_file(tmp_path):
    """A record of four winters with a few values missing."""
    temperatures = made_temperatures(4 * WINTER)
    temperatures[20:24, 5] = temperatures[50, :] = np.nan
    path = tmp_path / "made.csv"
    write_csv(path, COLUMNS, temperatures)
    return path


def test_known_law(made_file, tmp_path, capsys):
    """The whole study: the networks predict a second half that they have not seen."""
    sizes = ["--step", "6", "--final-step", "6", "--iterations", "6", "--penalties", "0.001"]
    folder = tmp_path / "results"
    numbers = soil.main(["--data", str(made_file), "--output", str(folder), *sizes])
    rmse = {name: row["judged"] for name, row in numbers["rmse"].items()}
    assert rmse["networks"] < 0.35 < 0.7 * rmse["constant properties"]
    fit = numbers["rmse"]["networks"]["fit"]
    assert fit["loss"] < 0.2 * fit["initial_loss"]
    assert "18 of 5040 values are empty" in numbers["gaps"]
    assert "networks, no water" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "fields_0.vtu" in (folder / "fields" / "fields.pvd").read_text()
    laws = NetworkLaws(True, seed=5)
    femnn.load(folder / "networks.safetensors", into=laws)
    assert np.exp(laws.omega.item()) == pytest.approx(numbers["rmse"]["networks"]["water"])
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


@pytest.mark.skipif(not REAL.is_file(), reason=f"the measured record is not at {REAL}")
def test_real_freeze():
    """160 measured days around a freeze, in steps of four days."""
    record = read_record(REAL)
    assert len(record) == 1475
    assert "666 of" in record.gaps
    assert np.isnan(record.measured).any()
    assert not np.isnan(record.filled).any()
    quarters = read_record(REAL, hours=6)
    later = quarters.measured[2 : 2 + 4 * 1475].reshape(1475, 4, 14)  # it begins at noon
    whole, means = np.isfinite(later).all(axis=1), later.mean(axis=1)
    assert (record.first_day - quarters.first_day).days == 1
    same = np.isclose(means[whole], record.measured[whole], atol=1e-9)
    assert same.mean() > 0.99, "only days that lack some of their hours differ"
    runs = cut_runs(record, [400], 160, 4)
    laws = NetworkLaws(True, seed=0)
    columns = Soil(laws, runs, record.depths, [0.0])
    result = femnn.fit(columns.record(0.01), maxiter=8, progress=False)
    assert result.loss < 0.3 * result.initial_loss
    assert np.sqrt(np.nanmean(columns.errors() ** 2)) < 0.35


def test_heat_grows_with_temperature():
    """H rises and k is positive whatever the weights."""
    laws = NetworkLaws(True, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in laws.parameters():
            p.copy_(2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        T = torch.linspace(-20, 30, 500, dtype=torch.float64)[:, None]
        z, wet = torch.full_like(T, 0.4), torch.ones_like(T)
        assert bool((laws.heat(T, z, wet).diff(dim=0) > 0).all())
        assert bool((laws.conductivity(T, z) > 0).all())


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (None, ["there is no file", "Fargo, North Dakota", "PyNotes", "--data FILE"]),
        ("station,time_cst,T5cm\n", ["lacks the columns T10cm", "wanted station, time_cst, T5cm"]),
        ("", ["lacks the columns station", "it has none"]),
        ("{header}\n", ["has the columns but no rows"]),
        ("{header}\nFargo,yesterday,{cold}\n", ["line 2", "'yesterday'", "10/2/14 12:00"]),
        ("{header}\nFargo,10/2/14 12:00,{cold}\n", ["has 1 whole days", "at least 40"]),
    ],
)
def test_bad_files(tmp_path, write, told):
    """Each error says what came, what was wanted and where the data come from."""
    path = tmp_path / "data.csv"
    if write is not None:
        header = ",".join(COLUMNS)
        path.write_text(write.format(header=header, cold=",".join(["-1"] * 14)))
    with pytest.raises(SystemExit) as stopped:
        soil.main(["--data", str(path), "--output", str(tmp_path / "out")])
    for text in [*told, "PyNotes"]:
        assert text in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_file_given():
    with pytest.raises(SystemExit, match=r"no data file was given.*NDAWN.*--data FILE"):
        soil.main([])
