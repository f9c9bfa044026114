"""The README: short, with code that runs, links that lead somewhere and the pages' numbers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import femnn

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINES = README.splitlines()
FIGURES = [line for line in LINES if line.startswith("| <img")]


def test_it_is_a_screen_and_a_half():
    assert len(LINES) <= 75
    assert LINES.index("```") < 50
    assert len(FIGURES) == 5


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", README) + re.findall(r'src="(.*?)"', README)
    assert len(links) > 15
    assert [to for to in links if not (ROOT / to).exists()] == []


def test_its_commands_are_there():
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z-]+)\b", " ".join(re.findall(r"`.*?`|^    .*", README, re.M)))
    assert {"env", "demo"} <= set(named) <= set(targets)


def numbers(text):
    """The numbers in a text, as they are written; 1,223 is one."""
    return re.findall(r"\d[\d,]*(?:\.\d+)?", re.sub(r"\]\([^)]*\)", "", text))


@pytest.mark.parametrize("line", FIGURES)
def test_numbers_are_those_of_the_page_behind(line):
    """Each number of a line is one of the page that it links to, or one of these rounded."""
    said = line.split("|")[2]
    (page,) = re.findall(r"\]\((.*?)\)", said)
    known = [float(n.replace(",", "")) for n in numbers((ROOT / page).read_text())]
    for number in numbers(said):
        places = len(number.partition(".")[2])
        wanted = float(number.replace(",", ""))
        assert wanted in known or wanted in [round(n, places) for n in known], number


def test_the_example_runs_in_a_fresh_shell(tmp_path):
    """The README's own code, as it stands there, copied to a file."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.py").write_text(block)
    ran = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split("relative error of the law:")[1]) < 0.02
    assert isinstance(femnn.load(tmp_path / "law.safetensors"), femnn.MLP)
