"""What the documentation names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "correctness.md").read_text())


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_tests_that_the_table_of_correctness_names_are_there(path):
    tree = ast.parse((ROOT / "tests" / path).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for other, name in NAMED if other == path} <= there


def test_every_kind_has_a_row():
    text = (ROOT / "docs" / "correctness.md").read_text()
    rows = {int(n) for n in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert rows == set(range(23))
