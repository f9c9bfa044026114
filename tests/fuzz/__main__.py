"""``python -m tests.fuzz``: draw problems, run them, print what disagrees."""

from __future__ import annotations

import argparse
import gc
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count

from firedrake import COMM_WORLD
from firedrake.petsc import PETSc

from tests.fuzz.check import Outcome, check
from tests.fuzz.grammar import Problem, draw
from tests.fuzz.script import alone
from tests.fuzz.shrink import shrink


def main() -> int:
    """Run, and return the number of disagreements."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="A:B, from A to B - 1 (0:100)")
    parser.add_argument("--minutes", type=float, help="go on from A for so long, past B")
    parser.add_argument("--tries", type=int, default=40, help="problems tried in shrinking (40)")
    args = parser.parse_args()
    start, end = map(int, args.seeds.split(":"))
    counts: Counter[str] = Counter()
    for seed in _seeds(start, end, args.minutes):
        problem = draw(seed)
        before = time.monotonic()
        outcome = check(problem)
        _say(f"{seed:6d} {time.monotonic() - before:6.1f} s {outcome.kind}")
        counts["disagreements" if outcome.bad else outcome.kind] += 1
        if outcome.bad:
            _report(problem, outcome, args.tries)
        if seed % 20 == 0:
            _clean_up()
    _clean_up()
    _say(f"{sum(counts.values())} problems on {COMM_WORLD.size} rank(s): {dict(counts)}")
    return counts["disagreements"]


def _seeds(start: int, end: int, minutes: float | None) -> Iterator[int]:
    if minutes is None:
        yield from range(start, end)
        return
    begin = time.monotonic()
    for seed in count(start):
        if COMM_WORLD.bcast(time.monotonic() - begin > 60 * minutes):
            return
        yield seed


def _clean_up() -> None:
    """Destroy what ranks no longer hold; PETSc waits for ever at its end where one alone has it."""
    gc.collect()
    PETSc.garbage_cleanup(COMM_WORLD)


def _report(problem: Problem, outcome: Outcome, tries: int) -> None:
    _say(f"{outcome.text}\n{problem}")
    small = shrink(problem, lambda p: check(p).kind == outcome.kind, tries)
    last = check(small)
    _say(f"---- shrunken, {small}\n{last.text}\n---- script\n{alone(small)}\n---- end")


def _say(text: str) -> None:
    if COMM_WORLD.rank == 0:
        print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(min(main(), 100))
