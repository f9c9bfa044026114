"""The study of soil water: a made column whose laws are known, the real one, and bad files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyadjoint import taylor_test

import femnn
from demos.studies.soil_water import __main__ as soil_water
from demos.studies.soil_water import darcy, darcy_pinn
from demos.studies.soil_water.data import Evaporation, read_evaporation
from demos.studies.soil_water.evaporation import FITTED, HELD_OUT
from demos.studies.soil_water.judging import scores, tabled
from demos.studies.soil_water.laws import LARGEST, Laws, NetworkLaws, VanGenuchten
from demos.studies.soil_water.model import Column
from demos.studies.soil_water.pinn import Pinn
from demos.studies.soil_water.training import networks_like

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "soil_columns"
DEPTHS = np.array([1.0, 3.0, 4.895, 7.0, 9.0])
READING = 0.004  # errors of log10(-h)
# Of a fit to the real column at 1, 4.895 and 9 cm: residual, pores, alpha, n, K, l.
MEASURED_SOIL = (0.1293, 0.1829, 0.01786, 1.5408, 11.28, -0.7264)


def known_laws(residual=0.1, pores=0.25, alpha=0.025, n=1.65, K=14.0, l=0.5):  # noqa: E741
    """Van Genuchten's laws with these numbers."""
    laws = VanGenuchten()
    part = residual / (LARGEST / 4), pores / (LARGEST - residual)
    sizes = np.log(alpha / 0.02), np.log(n - 1) + 0.5, np.log(K / 20), l - 0.5
    with torch.no_grad():
        laws.p.copy_(torch.tensor([*(np.log(p / (1 - p)) for p in part), *sizes]))
    return laws


def made_column(seed=0):
    """Heads of a known soil with errors, and its laws, with the content at the end that is told."""
    times = np.array([0.001, 0.2, 0.5, 0.9, 1.4, 2.0, 3.0])
    flux = np.array([0.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2])
    heads = np.full((len(times), len(DEPTHS)), -1.0)
    made = Evaporation(times, DEPTHS, heads, heads.copy(), flux)
    column = Column(made, known_laws(), FITTED, cells=10)
    content = column.water_budget()["mean content at the end"]
    laws = known_laws(residual=0.1 + made.mean_at_end - content)
    heads[:] = column.simulate()
    made.published[:] = heads
    heads *= 10 ** np.random.default_rng(seed).normal(0, READING, heads.shape)
    return made, laws


def write(folder, made):
    rows = ["time_d,depth_cm,head_cm,hydrus_fit_head_cm"]
    for j, depth in enumerate(made.depths):
        for i, time in enumerate(made.times):
            rows.append(f"{time},{depth},{made.heads[i, j]:.6f},{made.published[i, j]:.6f}")
    (folder / "wendroth_evaporation_heads.csv").write_text("\n".join(rows) + "\n")
    flux = zip(made.times, made.flux, strict=True)
    rows = ["until_time_d,evaporation_cm_d", *(f"{time},{rate}" for time, rate in flux)]
    (folder / "wendroth_evaporation_flux.csv").write_text("\n".join(rows) + "\n")


def test_the_study(tmp_path, capsys):
    """The whole run on a made column: the laws are found, and heads at depths not fitted."""
    made, laws = made_column()
    write(tmp_path, made)
    folder = tmp_path / "results"
    sizes = "--cells 8 --rounds 2 --iterations 2 --width 3 --draws 2 --adam 20 --lbfgs 10"
    sizes += " --pinn-weights 1 --no-darcy"
    numbers = soil_water.main(["--data", str(tmp_path), "--output", str(folder), *sizes.split()])
    models = numbers["models"]
    for name in ("van Genuchten-Mualem", "networks"):
        assert models[name]["log10_held_out"] < 1.5 * READING
        assert models[name]["noise"] == pytest.approx(READING, rel=0.4)
        assert models[name]["water"]["left in a step"] < 1e-10
        assert models[name]["water"]["mean content at the end"] == pytest.approx(0.1837, abs=2e-3)
    assert models["PINN"]["log10_held_out"] > models["networks"]["log10_held_out"]
    assert 0.7 < models["networks"]["bands"]["coverage"] <= 1
    found = femnn.load(folder / "laws.safetensors", NetworkLaws(3))
    pF = np.linspace(1.5, 2.4, 20)
    (theta, log_K), (true_theta, true_log_K) = tabled(found, pF), tabled(laws, pF)
    assert np.abs(theta - true_theta).max() < 0.01
    assert np.abs(log_K - true_log_K).max() < 0.1
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "van Genuchten-Mualem" in capsys.readouterr().out


class Linear(Laws):
    """theta = 0.3 + C h, constant K."""

    C, K = 1e-3, 5.0

    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def theta(self, h):
        return 0.3 + self.C * h + 0 * self.p

    def log_K(self, h):
        return np.log(self.K) + 0 * h + 0 * self.p


def test_a_steady_drying_is_exact():
    """With linear laws the column dries evenly in the end: a parabola that sinks."""
    made, _ = made_column()
    made.flux[:] = 0.4
    heads = Column(made, Linear(), FITTED, cells=10).simulate(np.array([0.0, 4.0, 10.0]))
    fall = -0.4 / (Linear.C * made.height) * (made.times[-1] - made.times[-2])
    assert np.allclose(heads[-1] - heads[-2], fall, rtol=1e-9)
    z = np.array([4.0, 10.0])
    parabola = z + 0.4 / Linear.K * (z - z**2 / (2 * made.height))
    assert np.allclose(heads[-1, 1:] - heads[-1, 0], parabola, rtol=0, atol=1e-8)


def test_water_at_rest_stays():
    """Without evaporation the profile in which nothing flows does not change."""
    made, laws = made_column()
    made.flux[:], made.at_start = 0.0, (-40.0, -30.0)
    heads = Column(made, laws, FITTED, cells=10).simulate()
    assert np.allclose(heads, -40 + DEPTHS, rtol=0, atol=1e-9)
    pinn = Pinn(made, laws, FITTED)
    pinn.drying = 1.0
    pinn.head.forward = lambda z, t: -40 + z + 0 * t
    assert float((pinn.loss() - pinn._of_data()).detach()) < 1e-20


def test_the_gradient():
    made, _ = made_column()
    column = Column(made, NetworkLaws(3, seed=1), FITTED, cells=6)
    column.noise.assign(0.05)
    w = column.weights
    Jhat = column.record(femnn.GaussianPrior(w))
    direction = w.like(np.random.default_rng(2).normal(0, 0.1, len(w.vector)))
    assert taylor_test(Jhat, w.like(w.vector + 0.1), direction) > 1.9


def test_the_rival_on_a_made_column():
    """With the true laws to begin with, the PINN comes near the heads that it was not given."""
    made, laws = made_column()
    pinn = Pinn(made, laws, FITTED, width=12)
    losses = pinn.train(120, 40)["losses"]
    assert losses[-1] < 1e-2 * losses[0]
    assert scores(made, pinn.heads(), FITTED, HELD_OUT)["log10_held_out"] < 0.02


def test_steady_flow():
    """With K = 1 the head is a straight line; laws of place and of the head are found."""
    place, head = darcy.problems((24,), 0)
    one = torch.nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        one.weight.zero_()
        one.bias.fill_(1.0)
    x = np.array([[0.0, 0.5], [0.3, 0.2], [1.0, 0.7]])
    assert np.allclose(darcy.Flow(place, one, 4).heads(x), 1 - x[:, 0], rtol=0, atol=1e-10)
    for problem, most in ((place, 0.15), (head, 0.1)):
        data = darcy.measured(problem, 24, 0)
        found = darcy.by_elements(problem, data, 0, 8, 3)
        assert found["K"] < most
        assert found["head"] < 0.02
        pinn = darcy_pinn.SteadyPinn(problem, data, 1.0, 0, width=8, side=8)
        before = float(pinn.loss().detach())
        pinn.train(60, 30)
        assert float(pinn.loss().detach()) < 0.1 * before


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the measured record is not at {REAL}")
def test_the_real_column():
    """The published fit, van Genuchten's laws, and a few steps of networks from them."""
    experiment = read_evaporation(REAL)
    assert experiment.heads.shape == (36, 5)
    assert experiment.evaporated == pytest.approx(1.2019, abs=1e-4)
    published = scores(experiment, experiment.published, FITTED, HELD_OUT)
    assert published["held_out"] == pytest.approx(6.42, abs=0.01)
    residual, *others = MEASURED_SOIL
    hand = known_laws(residual, *others)
    heads = Column(experiment, hand, FITTED).simulate()
    assert scores(experiment, heads, FITTED, HELD_OUT)["held_out"] == pytest.approx(9.8, abs=0.1)
    early = experiment.times < 0.3
    parts = {k: getattr(experiment, k)[early] for k in ("times", "heads", "published", "flux")}
    first = replace(experiment, **parts)
    first.mean_at_end += (experiment.evaporated - first.evaporated) / first.height
    networks = networks_like(hand, 4, 0)
    column = Column(first, networks, FITTED, cells=10)
    column.noise.assign(0.02)
    prior = femnn.GaussianPrior(column.weights, 1.0, mean=column.weights.vector.copy())
    before = scores(first, column.simulate(), FITTED, HELD_OUT)
    femnn.fit(column.record(prior), "gauss-newton", maxiter=2, progress=False)
    after = scores(first, column.simulate(), FITTED, HELD_OUT)
    assert after["fitted"] < 0.6 * before["fitted"]
    assert after["held_out"] < before["held_out"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("heads", None, ["there is no file", "O. Wendroth", "--data FOLDER"]),
        ("heads", "time_d,depth_cm\n1,2\n", ["lacks head_cm, hydrus_fit_head_cm"]),
        ("heads", "time_d,depth_cm,head_cm,hydrus_fit_head_cm\n", ["has no rows"]),
        ("heads", "time_d,depth_cm,head_cm,hydrus_fit_head_cm\n1,2,x,3\n", ["cannot be read"]),
        (
            "heads",
            "time_d,depth_cm,head_cm,hydrus_fit_head_cm\n1,2,-3,-3\n1,4,-3,-3\n2,2,-3,-3\n",
            ["has 3 rows for 2 times and 2 depths"],
        ),
        (
            "heads",
            "time_d,depth_cm,head_cm,hydrus_fit_head_cm\n1,2,3,-3\n1,4,-3,-3\n",
            ["heads that are not negative"],
        ),
        ("flux", "until_time_d,evaporation_cm_d\n2,1\n", ["are not those of the heads"]),
    ],
)
def test_bad_files(tmp_path, name, text, told):
    """Each error says what came, what was wanted and where the data come from."""
    heads = "time_d,depth_cm,head_cm,hydrus_fit_head_cm\n1,1,-3,-3\n1,4,-3,-3\n"
    files = {"heads": heads, "flux": "until_time_d,evaporation_cm_d\n1,0.5\n"} | {name: text}
    for kind, content in files.items():
        if content is not None:
            (tmp_path / f"wendroth_evaporation_{kind}.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        soil_water.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    for part in [*told, "HYDRUS-1-D-gfortran"]:
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_given():
    with pytest.raises(SystemExit, match=r"no data folder was given.*--data FOLDER"):
        soil_water.main([])
