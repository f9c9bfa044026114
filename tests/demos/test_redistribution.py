"""The study of redistribution: a made column of known laws, exact solutions, the real one."""

import json
from math import erfc
from pathlib import Path

import numpy as np
import pytest
import torch
from firedrake import Constant
from pyadjoint import taylor_test

import femnn
from demos.studies.common import rms
from demos.studies.redistribution import __main__ as redistribution
from demos.studies.redistribution.data import Experiment, read_experiment
from demos.studies.redistribution.judging import history, law_of, scores, splits
from demos.studies.redistribution.laws import Diffusivity, NetworkLaws, VanGenuchten
from demos.studies.redistribution.model import Column, Sizes

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "soil_columns"
PLACES = np.array([5.0, 9.5, 12.5, 18.5, 21.5, 25.5, 28.5, 35.5])
READING = 0.004  # errors of the water content
# Of a fit to the infiltration and half the places of the redistribution of the real column.
MEASURED_SOIL = (-0.03143, 0.49595, 0.29636, -0.38455, -0.18794, -0.12238)
INLET = 0.44105
COARSE = Sizes(2.0, 8, 5)
HEADER = "time_min,x_cm,water_content,hydrus_fit_water_content"


def experiment(times=(60.0, 150.0, 300.0, 600.0, 900.0, 2000.0, 5000.0, 12000.0, 30000.0)):
    """Readings at all places and times, of no content yet."""
    t, x = (a.ravel() for a in np.meshgrid(times, PLACES, indexing="ij"))
    return Experiment(t, x, np.full(len(t), 0.1), np.full(len(t), 0.1))


def known_laws():
    laws = VanGenuchten()
    with torch.no_grad():
        laws.p.copy_(torch.tensor([0.3, -0.2, 0.2, 0.2, 0.4, 0.3]))
    return laws


def made_column(seed=0):
    """Contents of a known soil with errors."""
    made = experiment()
    made.content[:] = Column(made, known_laws(), made.after, COARSE).simulate()
    made.published[:] = made.content
    made.content += np.random.default_rng(seed).normal(0, READING, len(made.content))
    return made


def write(folder, made):
    parts = {"infiltration": ~made.after, "redistribution": made.after | (made.x < 6)}
    for part, which in parts.items():
        rows = zip(made.time, made.x, made.content, made.published, strict=True)
        kept = [",".join(f"{v:.6f}" for v in row) for row, k in zip(rows, which, strict=True) if k]
        (folder / f"vachaud_horizontal_{part}.csv").write_text("\n".join([HEADER, *kept]) + "\n")


def test_the_study(tmp_path, capsys):
    """The whole run on a made column: with memory places that were not fitted are found."""
    made = made_column()
    write(tmp_path, made)
    folder = tmp_path / "results"
    sizes = "--cell 2 --steps 8 5 --rounds 1 --iterations 2 --width 3 --splits places"
    numbers = redistribution.main(
        ["--data", str(tmp_path), "--output", str(folder), *sizes.split()]
    )
    rows = numbers["models"]["places"]
    assert rows["by hand"]["held_out"] < 1.4 * READING
    for name in ("by hand", "networks"):
        assert rows[name]["held_out"] < 0.4 * rows["no memory"]["held_out"]
        assert rows[name]["bands"]["coverage"] > 0.6
    for budget in numbers["water"].values():
        assert budget["left in a step"] < 1e-9
        assert abs(budget["gained after"]) < 1e-9
    assert numbers["law"]["largest state"] > 0.1
    found = femnn.load(folder / "networks.safetensors", NetworkLaws(3))
    rising = np.diff(np.ravel(femnn.evaluate(found.of_K, np.linspace(0.05, 0.43, 9))))
    assert (rising > 0).all()
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "Straight lines between places" in capsys.readouterr().out


def column_of(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@torch.no_grad()
def test_the_state_follows_the_path():
    """Not its speed: two halves of a drying are the whole; s goes to 1, wetting takes it back."""
    laws = known_laws()
    start, half, end, s = (column_of(v) for v in (0.4, 0.35, 0.3, 0.2))
    middle = laws.state(half, start, s)
    dried = laws.state(end, start, s)
    assert float(laws.state(end, half, middle) - dried) == pytest.approx(0, abs=1e-4)
    rate = float(laws.numbers()["rate"])
    assert float(1 - dried) == pytest.approx(0.8 * np.exp(-0.1 * rate), rel=1e-3)
    assert float(laws.state(start, start, dried)) == float(dried)
    assert 0 <= float(laws.state(start, end, dried)) < 0.5 * float(dried)


def test_suction_falls_along_every_path():
    """For all weights: more water, less suction, whatever was before."""
    laws, random = NetworkLaws(5, seed=3), np.random.default_rng(1)
    with torch.no_grad():
        for p in laws.parameters():
            p.add_(torch.tensor(random.normal(0, 1, p.shape)))
        for old, s in random.uniform((0.02, 0), (0.43, 1), (20, 2)):
            theta = torch.linspace(0.02, 0.43, 60, dtype=torch.float64)[:, None]
            before = torch.full_like(theta, s)
            state = laws.state(theta, torch.full_like(theta, old), before)
            suction = laws.suction(theta, state)
            assert bool((suction[1:] < suction[:-1]).all())
            assert bool(((state >= 0) & (state <= 1)).all())


def test_a_constant_diffusivity_is_exact():
    """Without memory and with one D the wetting is the complementary error function's."""
    made = experiment((40.0, 100.0, 200.0, 400.0, 600.0, 700.0))
    laws, D = Diffusivity(2), 0.1
    with torch.no_grad():
        *_, weight, bias = laws.net.parameters()
        weight.zero_()
        bias.fill_(np.log(D) / 3)
    off = []
    rise = made.inlet - made.at_start
    exact = made.at_start + rise * np.array(
        [erfc(x / (2 * np.sqrt(D * t))) for t, x in zip(made.time, made.x, strict=True)]
    )
    for sizes in (Sizes(1.0, 40, 1), Sizes(0.5, 80, 1)):
        found = Column(made, laws, made.after, sizes).simulate()
        off.append(rms((found - exact)[~made.after]))
    assert off[1] < 0.003
    assert off[1] < 0.6 * off[0]


def test_at_rest_the_suction_is_even_and_the_water_is_not():
    """What memory is for: in the end water no longer flows, and stays where it came first."""
    made = experiment((60.0, 3e7))
    row = {"laws": known_laws()}
    row["column"] = Column(made, row["laws"], made.after, Sizes(2.0, 14, 30))
    run = history(row)
    content, state = run["content"][-1], run["state"][-1]
    wet = content > 0.1
    suction = law_of(row, content, state)
    assert wet.sum() > 5
    assert np.ptp(np.log(suction[wet])) < 0.05
    assert np.ptp(content[wet]) > 0.05


def test_the_gradient():
    made = experiment()
    column = Column(made, NetworkLaws(3, seed=1), splits(made)["places"], COARSE)
    w = column.weights
    Jhat = column.record(femnn.GaussianPrior(w))
    direction = w.like(np.random.default_rng(2).normal(0, 0.1, len(w.vector)))
    there = [w.like(w.vector + 0.1), Constant(0.431)]
    assert taylor_test(Jhat, there, [direction, Constant(0.003)]) > 1.9


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the measured record is not at {REAL}")
def test_the_real_column():
    """The readings of the published fit, and laws with and without memory beside it."""
    known = read_experiment(REAL)
    assert known.after.sum() == 111
    assert len(known.time) == 225
    every = splits(known)["all"]
    published = scores(known, known.published, every)
    assert published["redistribution"] == pytest.approx(0.0140, abs=5e-5)
    places = splits(known)["places"]
    assert places.sum() == 59
    laws = VanGenuchten()
    with torch.no_grad():
        laws.p.copy_(torch.tensor(MEASURED_SOIL))
    column = Column(known, laws, places)
    column.inlet.assign(INLET)
    found = scores(known, column.simulate(), places)
    assert found["held_out"] == pytest.approx(0.0105, abs=2e-4)
    laws.remembers = False
    assert scores(known, column.simulate(), places)["held_out"] > 3 * found["held_out"]


@pytest.mark.parametrize(
    ("part", "text", "told"),
    [
        ("infiltration", None, ["there is no file", "G. Vachaud", "--data FOLDER"]),
        ("redistribution", "time_min,x_cm\n1,2\n", ["lacks the columns water_content"]),
        ("redistribution", f"{HEADER}\n700,5,x,0.3\n", ["cannot be read"]),
        ("redistribution", f"{HEADER}\n700,5,1.3,0.3\n", ["not between 0 and 1"]),
        ("infiltration", f"{HEADER}\n7,5,0.3,0.3\n7,5,0.2,0.3\n", ["two readings of one place"]),
    ],
)
def test_bad_files(tmp_path, part, text, told):
    """Each error says what came, what was wanted and where the data come from."""
    good = f"{HEADER}\n100,5,0.3,0.3\n700,5,0.3,0.3\n"
    for name, content in ({"infiltration": good, "redistribution": good} | {part: text}).items():
        if content is not None:
            (tmp_path / f"vachaud_horizontal_{name}.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        redistribution.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    for part_of in [*told, "HYDRUS-1-D-gfortran"]:
        assert part_of in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_given():
    with pytest.raises(SystemExit, match=r"no data folder was given.*--data FOLDER"):
        redistribution.main([])
