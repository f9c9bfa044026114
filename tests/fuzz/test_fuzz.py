"""Some of the machine's problems, and that it finds and shrinks what is wrong."""

import subprocess
import sys

import pytest

from femnn.evaluation.evaluator import PointEvaluator
from tests.fuzz.check import check
from tests.fuzz.grammar import SHARING, draw
from tests.fuzz.script import alone
from tests.fuzz.shrink import shrink

STRUCTURES = 12
SEEDS = [SHARING * i + j for i in range(STRUCTURES) for j in range(5)]


def assert_agrees(seed):
    outcome = check(draw(seed))
    assert not outcome.bad, f"{outcome.text}\n{alone(draw(seed))}"
    return outcome


@pytest.mark.parametrize("structure", range(STRUCTURES))
def test_femnn_agrees_with_the_network_in_ufl(structure):
    outcomes = [assert_agrees(s) for s in SEEDS if s // SHARING == structure]
    assert any(o.kind == "agrees" for o in outcomes), "the oracle had no solution at all"


@pytest.mark.parallel(2)
@pytest.mark.parametrize("seed", SEEDS[2::15])
def test_femnn_agrees_on_ranks(seed):
    assert_agrees(seed)


def test_a_problem_is_determined_by_its_seed():
    assert [draw(s) for s in SEEDS] == [draw(s) for s in SEEDS]
    assert len({draw(s).actions for s in SEEDS}) > len(SEEDS) // 2


def test_a_fault_is_found_and_its_script_shrunken(monkeypatch, tmp_path):
    right = PointEvaluator.vjp

    def wrong(self, *args, **kwargs):
        inputs, weights = right(self, *args, **kwargs)
        return inputs, 1.01 * weights

    monkeypatch.setattr(PointEvaluator, "vjp", wrong)
    problem = next(p for p in map(draw, SEEDS) if p.controls == ("w0",))
    outcome = check(problem)
    assert outcome.kind.startswith("derivative")
    small = shrink(problem, lambda p: check(p).kind == outcome.kind, tries=8)
    assert len(small.actions) < len(problem.actions)
    monkeypatch.undo()
    script = tmp_path / "problem.py"  # on its own, with nothing of the checkout's tests
    script.write_text(alone(small))
    assert "tests.fuzz" not in alone(small)
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path)
