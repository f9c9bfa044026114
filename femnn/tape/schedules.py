"""What a schedule does, and which variables of a tape a step needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from checkpoint_schedules import CheckpointSchedule, EndForward, EndReverse


def all_actions(schedule: CheckpointSchedule, n_steps: int) -> tuple[list, list]:
    """A schedule's actions forwards and backwards.

    Raises
    ------
    RuntimeError
        If the schedule is for another number of steps, or has been used before.
    """
    if schedule.max_n not in (None, n_steps):
        raise RuntimeError(_wrong_length(schedule, n_steps))
    forward: list[Any] = []
    reverse: list[Any] = []
    target = forward
    for action in schedule:
        if isinstance(action, EndReverse):
            break
        if isinstance(action, EndForward):
            target = reverse
            continue
        target.append(action)
        if schedule.max_n is None and action.n1 >= n_steps:
            schedule.finalize(n_steps)
    if not forward or forward[0].n0 != 0:
        raise RuntimeError(
            f"this {type(schedule).__name__} has been used before: make a new one for each tape."
        )
    return forward, reverse


def _wrong_length(schedule: CheckpointSchedule, n_steps: int) -> str:
    return (
        f"the schedule {type(schedule).__name__} is for {schedule.max_n} steps, the tape has "
        f"{n_steps}: write the loop as 'for step in tape.timestepper(iter(range(N)))', with the "
        "schedule's N."
    )


def variables_of(blocks: Iterable) -> dict[Any, None]:
    """What blocks use and make, each once."""
    both = (chain(b.get_dependencies(), b.get_outputs()) for b in blocks)
    return dict.fromkeys(chain.from_iterable(both))


def live_variables(steps: Sequence[Sequence[Any]]) -> list[dict[Any, None]]:
    """For each step, and for the end, what an earlier step has made and a later one uses.

    At the end that is what the last step has made and nobody uses, a functional for example.
    """
    last = steps[-1]
    used = {v for block in last for v in block.get_dependencies()}
    live = [{v: None for block in last for v in block.get_outputs() if v not in used}]
    for n in range(len(steps) - 1, -1, -1):
        needed = (v for block in steps[n] for v in block.get_dependencies())
        both = dict.fromkeys(chain(needed, live[-1]))
        live.append({v: None for v in both if 0 <= v.creation_timestep < n})
    return live[::-1]
