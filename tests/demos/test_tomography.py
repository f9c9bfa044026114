"""The study of pumping tests: known layers are found again, both kinds of unknowns, budgets."""

import json

import numpy as np
import pytest
from firedrake import COMM_SELF, COMM_WORLD
from firedrake.adjoint import taylor_test

import femnn
from demos.studies.tomography import __main__ as tomography
from demos.studies.tomography.aquifer import GUESS, LOG_K, campaign, make_mesh
from demos.studies.tomography.inversion import Inversion, heads
from demos.studies.tomography.model import Site
from demos.studies.tomography.unknowns import FieldAquifer, LayeredAquifer, NetworkAquifer

SIZE = (4, 6)


def read_with(aquifer, n_tests=2, n_wells=5):
    """Readings without errors, by the model itself."""
    found = campaign(n_tests, n_wells, seed=0)
    site = Site(make_mesh(*SIZE, COMM_SELF))
    ports = femnn.Stations(site.mesh, found.ports)
    for test in (*found.tests, *found.held_out):
        found.readings[test] = np.asarray(ports(heads(aquifer, site, test)))
    return found


def known_layers():
    aquifer = LayeredAquifer()
    aquifer.means.assign(np.subtract(LOG_K, GUESS))
    aquifer.log_bed.assign(0.5)
    return aquifer


def inversion_of(aquifer, found, together=False, site=None):
    site = Site(make_mesh(*SIZE, COMM_WORLD)) if site is None else site
    return Inversion(found, aquifer, SIZE, site, together)


@pytest.mark.parallel([1, 2])
def test_layers_are_found_again():
    aquifer = LayeredAquifer(precision=1e-6)
    inversion = inversion_of(aquifer, read_with(known_layers()))
    inversion.fit(12, None, resume=False)
    np.testing.assert_allclose(aquifer.means.values() + GUESS, LOG_K, atol=1e-3)
    assert float(aquifer.log_bed) == pytest.approx(0.5, abs=1e-3)
    assert np.abs(inversion.errors()).max() < 1e-3
    balance = inversion.balance(inversion.campaign.tests[1])
    parts = {k: v for k, v in balance.items() if k != "not accounted for"}
    assert parts["well"] == -900
    assert parts["river"] > 0
    assert abs(sum(parts.values())) < 1e-4 * 900
    assert balance["not accounted for"] < 1e-4


@pytest.mark.parallel([1, 2])
def test_both_ways_to_spread_tests_are_the_same():
    """The same network on one mesh for all ranks, and each test on a rank of its own."""
    found = read_with(known_layers())
    losses = [
        inversion_of(NetworkAquifer(3, 0), found, together).functional.functional
        for together in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)


def test_taylor_of_field_layers_and_leakage():
    site = Site(make_mesh(*SIZE, COMM_SELF))
    aquifer = FieldAquifer(site.space, 0)
    inversion = inversion_of(aquifer, read_with(known_layers()), together=True, site=site)
    field, means, weights = (
        c.copy(deepcopy=True) if i == 0 else c for i, c in enumerate(aquifer.controls)
    )
    random = np.random.default_rng(1)
    field.dat.data_wo[:] = 0.3 * random.standard_normal(field.dat.data_ro.shape)
    change = field.copy(deepcopy=True)
    change.dat.data_wo[:] = random.standard_normal(field.dat.data_ro.shape)
    point = [field, means, weights]
    direction = [change, type(means)([0.2, -0.3, 0.1]), weights.like(np.cos(weights.vector))]
    assert taylor_test(inversion.functional, point, direction) > 1.95


@pytest.mark.parametrize("unknown", ["network", "field"])
def test_the_study(unknown, tmp_path, capfd):
    sizes = "--cells 4 --layers 6 --truth 4 6 --tests 2 --wells 5 --width 3 --draws 3"
    sizes += f" --iterations 3 --rounds 1 --unknown {unknown}"
    numbers = tomography.main(["--output", str(tmp_path), *sizes.split()])
    found, layers = numbers["found"], numbers["layers"]
    assert found["log K"] < 1.5, "worse than a guess"
    assert found["held out"] < 0.2
    assert layers["held out"] < 0.2
    assert 0 <= found["coverage held out"] <= 1
    assert json.loads((tmp_path / "results.json").read_text())["data"] == 30
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert unknown in capfd.readouterr().out


def test_a_large_solve_alone():
    numbers = tomography.main(["--forward", "--cells", "6", "--layers", "3"])
    assert numbers["unknowns of a solve"] == 7 * 7 * 4
    assert set(numbers["seconds"]) == {"mesh", "one test"}
