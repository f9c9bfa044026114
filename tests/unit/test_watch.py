"""What a run of the tests says of failures, and of tests that are cut off (tests/conftest.py)."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pathlib, time

def test_wrong():
    assert 1 + 1 == 3, "the sum is off"

def test_endless():
    pathlib.Path("started").touch()
    while not pathlib.Path("never").exists():
        time.sleep(0.05)
"""


class Run:
    """A run of the two tests above in a process of its own, read line by line."""

    def __init__(self, folder, arguments):
        (folder / "test_two.py").write_text(TESTS)
        argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
        self.process = subprocess.Popen(
            [*argv, "-c", os.devnull, "--rootdir", str(folder), *arguments, "test_two.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # A run that never says what is waited for ends too.
        self.timer = threading.Timer(300, self.process.kill)
        self.timer.start()

    def until(self, text):
        """Return all lines up to the first that holds a text, or to the end."""
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                break
        return "".join(seen)


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_failures_are_told_at_once_and_an_ended_run_names_what_it_was_at(tmp_path, arguments):
    run = Run(tmp_path, arguments)
    try:
        before = run.until("the sum is off")
        assert "call: test_two.py::test_wrong" in before + run.until("assert (1 + 1) == 3")
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGTERM)
        running = "s: test_two.py::test_endless"
        assert running in run.until(running)
        assert run.process.wait() == pytest.ExitCode.INTERRUPTED
    finally:
        run.timer.cancel()
        run.process.kill()
        run.process.communicate()
