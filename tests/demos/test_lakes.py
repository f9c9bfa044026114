"""The study of lakes: a known law from made thermometers, the real record, and bad files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyadjoint import taylor_test

import femnn
from demos.studies.lakes import __main__ as lakes
from demos.studies.lakes.data import Lake, read_lake
from demos.studies.lakes.laws import ConstantK, NetworkLaw, WindLaw
from demos.studies.lakes.model import DAY, Columns

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "lakes"
DEPTHS = np.array([1.0, 2.0, 4.0, 6.0])
SUMMERS = ["2006-06-01", "2007-06-01"]
BATHYMETRY = np.array([[0.0, 9e4], [4.0, 5e4], [8.0, 1e3]])


def made_lake(years=(2001, 2002, 2003), seed=0):
    """Junes of a lake that mixes by the hand-made law, in a calendar without gaps."""
    days = np.arange(f"{years[0]}-06-01", f"{years[-1]}-07-01", dtype="datetime64[D]")
    random, n = np.random.default_rng(seed), len(days)
    top = 14 + 5 * np.sin(np.arange(n) / 9) + random.normal(0, 1, n)
    wind, light = random.gamma(4, 1, n), 150 + 50 * random.random(n)
    filled = np.column_stack([top, *(12 - d + 0 * top for d in DEPTHS[1:])])
    lake = Lake("made", days, DEPTHS, filled, filled, wind, light, BATHYMETRY, 1.0)
    june = np.flatnonzero(days.astype("datetime64[M]").astype(int) % 12 == 5)
    rows = [(int(r[0]), int(r[-1])) for r in np.split(june, len(years))]
    columns = Columns(lake, known_law(), rows)
    model = columns.simulate().reshape(30, len(rows), -1)
    for c, (first, last) in enumerate(rows):
        filled[first + 1 : last + 1, 1:] = model[1:, c]
    filled[june, 1:] += random.normal(0, 0.02, (len(june), 3))
    return lake, rows


def known_law():
    law = WindLaw()
    with torch.no_grad():
        law.p.copy_(torch.tensor([-1.0, 0.5, 0.5, -0.5, 0.5]))
    return law


def write(folder, lake, rows, name="feeagh"):
    which = np.concatenate([np.arange(first, last + 1) for first, last in rows])
    temperature = ["date," + ",".join(f"T_{d:g}m_degC" for d in lake.depths)]
    weather = ["date,wind_10m_m_s,shortwave_down_W_m2"]
    for i in which:
        temperature.append(f"{lake.days[i]}," + ",".join(f"{t:.4f}" for t in lake.filled[i]))
        weather.append(f"{lake.days[i]},{lake.wind[i]:.4f},{lake.light[i]:.4f}")
    temperature[5] = f"{lake.days[which[4]]},,,,"
    shape = ["depth_m,area_m2", *(f"{z},{a}" for z, a in lake.bathymetry)]
    for kind, lines in (("temperature", temperature), ("meteo", weather), ("bathymetry", shape)):
        (folder / f"{name}_{kind}.csv").write_text("\n".join(lines) + "\n")


def test_the_study(tmp_path, monkeypatch, capsys):
    """The whole run on a made lake, whose law is the hand-made one."""
    write(tmp_path, *made_lake())
    monkeypatch.setattr(lakes, "HAND_MADE", {"hand-made law": WindLaw})
    folder = tmp_path / "results"
    sizes = "--years 2001 2002 2003 2003 --months 6 6 --part 30 --every 2 --rounds 1"
    sizes += " --iterations 1 --winds 1 --width 3 --draws 2 --no-langtjern"
    numbers = lakes.main(["--data", str(tmp_path), "--output", str(folder), *sizes.split()])
    rmse = numbers["rmse"]
    assert rmse["hand-made law"]["held_out"] < 0.1
    assert rmse["network"]["held_out"] < 0.1
    assert numbers["without_a_model"]["as warm as the top"]["held_out"] > 1
    assert 0.8 < numbers["bands"]["coverage of 90%"] <= 1
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "hand-made law" in capsys.readouterr().out


def test_heat_is_conserved():
    """What is stored is light and what comes from above; without these nothing changes."""
    lake, rows = made_lake((2001,))
    columns = Columns(lake, known_law(), rows)
    budget = columns.heat_budget()
    assert budget["left in a step"] < 1e-10 * budget["stored and given back"]
    assert budget["through the top, in and out"] > 1
    lake.light[:] = 0.0
    lake.filled[:] = 7.0
    assert np.allclose(columns.simulate()[1:], 7.0, rtol=0, atol=1e-12)


def test_a_mode_decays_as_it_should():
    """With constant K and area sine modes decay by a known factor in each step of this scheme."""
    lake, _ = made_lake((2001,))
    lake.light[:], lake.bathymetry[:, 1], lake.filled[:, 0] = 0.0, 1e4, 20.0
    columns = Columns(lake, ConstantK(), [(0, 5), (3, 8)])
    height = lake.bathymetry[-1, 0] - DEPTHS[0]
    mode = 5 * np.sin(0.5 * np.pi * (columns.depth - DEPTHS[0]) / height)
    columns.last.dat.data[:], columns.top.dat.data[:] = 20 - mode, 20.0
    decay = 1 / (1 + DAY * 5e-5 * 2 * (1 - np.cos(0.5 * np.pi / height)))  # nodes at each metre
    for step in range(1, 4):
        columns.solver.solve()
        assert np.allclose(columns.T.dat.data_ro, 20 - mode * decay**step, rtol=0, atol=1e-11)
        columns.last.assign(columns.T)


def test_the_gradient():
    lake, rows = made_lake((2001, 2002))
    columns = Columns(lake, NetworkLaw((3,), (1, 3), WindLaw()), rows, every=3)
    w = columns.weights
    w.assign(w.vector + np.random.default_rng(1).normal(0, 0.3, len(w.vector)))
    Jhat = columns.record(femnn.GaussianPrior(w))
    direction = w.like(np.random.default_rng(2).normal(0, 0.1, len(w.vector)))
    assert taylor_test(Jhat, w.like(w.vector), direction) > 1.9


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the measured records are not at {REAL}")
def test_real_days():
    """Days of two summers, fitted by the hand-made law and by constant K."""
    lake = read_lake(REAL)
    assert len(lake) == 4745
    assert np.isnan(lake.measured).all(axis=1).sum() == 204
    assert lake.extinction == 0.98
    assert lake.wind_of(7)[100] == pytest.approx(lake.wind[94:101].mean())
    starts = [int(np.flatnonzero(lake.days == d)[0]) for d in np.array(SUMMERS, "datetime64[D]")]
    rows = [(first, first + 25) for first in starts]
    found = []
    for law in (ConstantK, WindLaw):
        columns = Columns(lake, law(), rows)
        Jhat = columns.record(femnn.GaussianPrior(columns.weights, 1e-2))
        femnn.fit(Jhat, "gauss-newton", maxiter=5, progress=False)
        found.append(np.nanmean(columns.errors() ** 2))
    assert found[1] < 0.85 * found[0] < 0.85 * 0.3
    assert len(read_lake(REAL, "langtjern").depths) == 8


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("temperature", None, ["there is no file", "Lough Feeagh", "--data FOLDER"]),
        (
            "temperature",
            "date,T_1m_degC\n2001-06-01,3\n",
            ["has 1 columns", "three depths or more"],
        ),
        ("temperature", "date,T_1m_degC\nyesterday,3\n", ["cannot be read", "2004-01-05"]),
        ("temperature", "date,T_1m_degC\n2001-06-02,3\n2001-06-01,3\n", ["do not increase"]),
        ("meteo", "date,wind_10m_m_s\n2001-06-01,3\n", ["lacks the columns shortwave_down_W_m2"]),
        ("bathymetry", "", ["lacks the columns depth_m, area_m2", "no rows"]),
    ],
)
def test_bad_files(tmp_path, name, text, told):
    """Each error says what came, what was wanted and where the data come from."""
    days = "date,T_1m_degC,T_2m_degC,T_3m_degC\n2001-06-01,3,4,5\n2001-06-02,3,4,5\n"
    weather = "date,wind_10m_m_s,shortwave_down_W_m2\n2001-06-01,3,4\n2001-06-02,3,4\n"
    files = {"temperature": days, "meteo": weather, "bathymetry": "depth_m,area_m2\n0,2\n9,1\n"}
    for kind, content in (files | {name: text}).items():
        if content is not None:
            (tmp_path / f"feeagh_{kind}.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        lakes.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    for part in [*told, "LER_examples"]:
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_given():
    with pytest.raises(SystemExit, match=r"no data folder was given.*--data FOLDER"):
        lakes.main([])
