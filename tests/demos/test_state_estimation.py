"""The study of state estimation: a small twin, the model against known waves, and its water."""

import json

import numpy as np
import pytest
from firedrake import split
from pyadjoint import taylor_test

import femnn
from demos.studies.state_estimation import __main__ as study
from demos.studies.state_estimation import model
from demos.studies.state_estimation.assimilation import Assimilation
from demos.studies.state_estimation.fits import FIRST_GUESS, LAWS, LEARNED
from demos.studies.state_estimation.laws import Network, Textbook, Vegetated
from demos.studies.state_estimation.model import HOUR, LENGTH, Channel, Forcing
from demos.studies.state_estimation.twin import Times, Twin, first_guess, true_forcing

SMALL = Times(window=6 * HOUR, every=0.5 * HOUR, spin_up=3 * HOUR, tides=("storm tide",))
STILL = Forcing(lambda t: 0.0, lambda t: 0.0)


def test_still_water_stays_still():
    """Over an uneven bed, with any friction."""
    channel = Channel(Vegetated(), STILL, 6, 600)
    channel.begin(0.0, 0.0)
    channel.march(0.0, 3 * HOUR)
    for part in channel.state.subfunctions:
        assert np.abs(part.dat.data_ro).max() < 1e-13


def test_a_quarter_wave_has_its_period(monkeypatch):
    """In a flat channel, closed at one end: a small wave comes back after 4 L / sqrt(g h)."""
    monkeypatch.setattr(model, "bed", lambda x: 2.0 + 0 * x)
    monkeypatch.setattr("demos.studies.state_estimation.laws.TEXTBOOK", 1e-6)
    period = 4 * LENGTH / np.sqrt(model.G * 2.0)
    channel = Channel(Textbook(), STILL, 8, period / 64, theta=0.5)
    height = 1e-4
    x = model.SpatialCoordinate(channel.mesh)[0]
    channel.begin(height * model.sin(0.5 * np.pi * x / LENGTH), 0.0)
    levels = []
    end = femnn.Stations(channel.mesh, [LENGTH])
    channel.march(
        0.0, period, lambda state, t: levels.append(np.array(end(split(state)[0])).item())
    )
    expected = height * np.cos(2 * np.pi * np.arange(65) / 64)
    assert np.allclose(levels, expected, rtol=0, atol=0.01 * height)


def test_water_is_conserved():
    """What is stored has come through the ends, also when the sea rises and the river falls."""
    channel = Channel(Vegetated(), true_forcing(SMALL), 8, 900)
    channel.begin(0.2, -0.2)
    water = channel.water_budget(0.0, SMALL.end)
    assert water["left in a step"] < 1e-12 * water["stored and given back"]
    assert water["through the ends"] > 1e3


@pytest.fixture(scope="module")
def twin():
    return Twin(SMALL, true_forcing(SMALL), seed=0, cells=12, step=450)


def test_the_gradient(twin):
    """In a direction of state and weights together."""
    channel = Channel(Network(3, seed=1), twin.forcing, 8, 900)
    Jhat = Assimilation(channel, twin, first_guess(SMALL, 8, 900)).record()
    random = np.random.default_rng(0)
    here = [c.control._ad_copy() for c in Jhat.controls]
    directions = []
    for f in here[:2]:
        d = f.copy(deepcopy=True)
        d.dat.data[:] = random.normal(0, 0.05, 9)
        directions.append(d)
    directions.append(here[2].like(random.normal(0, 0.1, len(here[2]))))
    assert taylor_test(Jhat, here, directions) > 1.9


def test_the_study(tmp_path, monkeypatch, capsys):
    """The whole run on a coarse mesh, with a short window and one tide after it."""
    kept = (FIRST_GUESS, "state and a constant n", LEARNED)
    monkeypatch.setattr(study, "LAWS", {name: LAWS[name] for name in kept})
    monkeypatch.setattr(study, "PARTS", (1,))
    sizes = "--cells 6 --step 1800 --finer 2 --widths 3 --rounds 2 --iterations 3"
    numbers = study.main(["--output", str(tmp_path), *sizes.split()], SMALL)
    rows, law = numbers["rows"], numbers["law"]
    level = {name: {k: s["level"] for k, s in r["scores"].items()} for name, r in rows.items()}
    assert level[FIRST_GUESS]["start"] > 0.2
    assert level[LEARNED]["start"] < 0.06
    assert level[LEARNED]["window"] < 0.7 * level["state and a constant n"]["window"]
    assert law[LEARNED] < 0.6 * law["state and a constant n"]
    assert rows[LEARNED]["log_evidence"] > rows["state and a constant n"]["log_evidence"] + 10
    assert rows[LEARNED]["scores"]["window"]["reading_coverage"] > 0.75
    assert numbers["water"]["left in a step"] < 1e-7
    assert json.loads((tmp_path / "results.json").read_text())["law"] == law
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert LEARNED in capsys.readouterr().out


def test_steps_that_miss_readings(tmp_path):
    with pytest.raises(SystemExit, match="--step 700 does not divide the 1800 s between readings"):
        study.main(["--output", str(tmp_path), "--step", "700"])
