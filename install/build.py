"""Runs the steps: in order, side by side within a stage, each one once."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from typing import IO

from install import lock, pins
from install.failure import SetupError, step_failed
from install.layout import Layout
from install.recipe import SOURCE, Command, Step

HEARTBEAT = 60.0
"""Seconds between two signs of life of a long step."""


def run(steps: Sequence[Step], place: Layout) -> None:
    """Bring the environment up to date; return at once where it is."""
    if not pending(steps, place):
        return
    prepare(place)
    with lock.exclusive(place.state / "lock") as held:
        todo = pending(steps, place)
        announce(todo, place)
        for _, stage in groupby(todo, key=lambda step: step.stage):
            Stage(place, held).run(list(stage))


def prepare(place: Layout) -> None:
    """Make the folders and the constraints file."""
    try:
        place.state.mkdir(parents=True, exist_ok=True)
        place.wheels.mkdir(parents=True, exist_ok=True)
        write(place.state / "constraints.txt", pins.constraints(pins.read()))
    except OSError as error:
        raise SetupError(
            f"Cannot write the environment's folder: {error}.\n"
            "What to do: free space or choose another folder with FEMNN_ENV=/a/folder."
        ) from error


def pending(steps: Iterable[Step], place: Layout) -> list[Step]:
    """Return the steps whose stamp is missing or was made from other inputs."""
    return [step for step in steps if not is_done(step, place)]


def is_done(step: Step, place: Layout) -> bool:
    """Tell whether a step's stamp holds its digest."""
    try:
        return bool(json.loads(place.stamp(step).read_text())["digest"] == step.digest)
    except (OSError, ValueError, KeyError):
        return False


def announce(todo: Sequence[Step], place: Layout) -> None:
    """Say what is going to happen, how long it takes and where the logs are."""
    if not todo:
        print("The other build has finished it.")
        return
    stages = groupby(todo, key=lambda step: step.stage)
    minutes = sum(max(step.minutes for step in stage) for _, stage in stages)
    print(f"Building the environment {place.env}")
    print(f"{len(todo)} steps, about {minutes:.0f} min on 2 cores; logs: {place.state}", flush=True)


def write(path: Path, text: str) -> None:
    """Write a file so that it is either complete or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


class Stage:
    """Steps that run side by side; the first failure or Ctrl-C ends them all."""

    def __init__(self, place: Layout, held: int) -> None:
        self.place = place
        self.held = held
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def run(self, steps: list[Step]) -> None:
        """Run the steps and wait for all of them."""
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(self.run_step, step) for step in steps]
            try:
                raise_first(wait(futures, return_when=FIRST_EXCEPTION).done)
            finally:
                self.stop()

    def stop(self) -> None:
        """End the commands that still run, with all their children."""
        self.stopping = True
        for process in list(self.running):
            # It may have ended by itself in this very moment.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def run_step(self, step: Step) -> None:
        """Run one step's commands, then stamp it."""
        print(f"[{step.name}] {step.what} (about {duration(60 * step.minutes)}) ...", flush=True)
        start = time.monotonic()
        # A step that is done anew invalidates itself first: half-done is not done.
        self.place.stamp(step).unlink(missing_ok=True)
        with self.place.log(step).open("wb") as log:
            for command in step.commands:
                self.run_command(step, command, log)
        seconds = time.monotonic() - start
        stamp = {"digest": step.digest, "seconds": round(seconds, 1)}
        write(self.place.stamp(step), json.dumps(stamp) + "\n")
        print(f"[{step.name}] done in {duration(seconds)}", flush=True)

    def run_command(self, step: Step, command: Command, log: IO[bytes]) -> None:
        """Run one command, unless what it creates is there."""
        words = self.words(step)
        target = Path(command.creates.format_map(words)) if command.creates else None
        if target and target.exists():
            return
        if target:
            words["out"] = f"{target}.{os.getpid()}.part"
        try:
            self.execute(step, [word.format_map(words) for word in command.argv], words, log)
            if target:
                keep(Path(words["out"]), target)
        finally:
            if target:
                shutil.rmtree(words["out"], ignore_errors=True)

    def execute(self, step: Step, argv: list[str], words: dict[str, str], log: IO[bytes]) -> None:
        """Run a command line to its end, in a process group of its own."""
        log.write(f"+ {' '.join(argv)}\n".encode())
        log.flush()
        if self.stopping:
            raise SetupError("stopped")
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environ(step, words),
            start_new_session=True,
            pass_fds=(self.held,),
        )
        self.running.add(process)
        try:
            status = self.wait(step, process)
        finally:
            self.running.discard(process)
        if status != 0:
            raise step_failed(step.name, status, self.place.log(step))

    def wait(self, step: Step, process: subprocess.Popen[bytes]) -> int:
        """Wait for a command, with a sign of life now and then."""
        start = time.monotonic()
        while True:
            try:
                return process.wait(HEARTBEAT)
            except subprocess.TimeoutExpired:
                print(f"[{step.name}] {duration(time.monotonic() - start)} so far", flush=True)

    def words(self, step: Step) -> dict[str, str]:
        """Return what the words in braces stand for."""
        return {
            "env": str(self.place.env),
            "python": str(self.place.python),
            "site": str(self.place.site),
            "docs": str(self.place.docs),
            "state": str(self.place.state),
            "source": str(SOURCE),
            "wheels": str(self.place.wheels / f"{step.name}-{step.digest[:12]}"),
            "system_python": sys.executable,
        }

    def environ(self, step: Step, words: dict[str, str]) -> dict[str, str]:
        """Return the environment variables of a step's commands.

        Variables that would lead the build to another Python or PETSc are dropped.
        """
        mine = {name: value.format_map(words) for name, value in step.environ.items()}
        foreign = {"PYTHONPATH", "PYTHONHOME", "PETSC_DIR", "PETSC_ARCH", "PIP_USER"}
        inherited = {name: value for name, value in os.environ.items() if name not in foreign}
        path = f"{self.place.env / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return inherited | {"PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | mine


def raise_first(done: Iterable[Future[None]]) -> None:
    """Raise the first failure among finished steps."""
    for future in done:
        future.result()


def keep(made: Path, target: Path) -> None:
    """Move what a command made to its place, unless another build was faster."""
    with contextlib.suppress(OSError):
        made.rename(target)


def duration(seconds: float) -> str:
    """Return a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min"
