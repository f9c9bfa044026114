"""Smaller problems with the same disagreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.grammar import Net, Problem

PLAIN = {
    "driven": False,
    "steps": 0,
    "bc": "none",
    "mass": True,
    "cubic": False,
    "goal": "plain",
    "form": "F",
    "call": "solve",
    "options": "direct",
    "theta": False,
    "warm_start": True,
    "where": "1",
}


def shrink(problem: Problem, persists: Callable[[Problem], bool], tries: int = 40) -> Problem:
    """The smallest problem found for which ``persists`` is still true.

    Parameters
    ----------
    problem
        The problem.
    persists
        Whether a problem shows the same disagreement.
    tries
        How many problems are run at most.
    """
    again = True
    while again and tries:
        again = False
        for smaller in simpler(problem):
            if not tries:
                break
            tries -= 1
            if persists(smaller):
                problem, again = smaller, True
                break
    return problem


def simpler(p: Problem) -> Iterator[Problem]:
    """Problems with one thing less, the largest things first."""
    for i in range(len(p.actions) - 1, -1, -1):
        rest = p.actions[:i] + p.actions[i + 1 :]
        if "record" in rest:
            yield replace(p, actions=rest)
    for i in range(len(p.laws)):
        if len(p.laws) > 1 and p.goal not in map(str, range(len(p.laws))):
            yield _without_law(p, i)
    for control in p.controls:
        if len(p.controls) > 1:
            yield replace(p, controls=tuple(c for c in p.controls if c != control))
    for name, value in PLAIN.items():
        if getattr(p, name) != value and _allowed(p, name):
            yield replace(p, **{name: value})
    for i, net in enumerate(p.nets):
        for plain in (replace(net, kind="mlp"), replace(net, activation="tanh")):
            if plain != net and not (net.kind == "gradient" and plain.kind == "mlp"):
                yield replace(p, nets=(*p.nets[:i], plain, *p.nets[i + 1 :]))


def _allowed(p: Problem, name: str) -> bool:
    if name == "steps":
        needed = {o for law in p.laws for o in (law.term, *law.operands)}
        return not {"un", "time", "initial"} & needed and "start" not in p.controls
    if name == "mass":
        return p.bc != "none"
    if name == "bc":
        return p.mass and not {"g", "b"} & set(p.controls) and p.bc != "law"
    return True


def _without_law(p: Problem, i: int) -> Problem:
    laws = p.laws[:i] + p.laws[i + 1 :]
    kept = sorted({law.net for law in laws})
    names = {f"w{old}": f"w{new}" for new, old in enumerate(kept)}
    controls = [names.get(c, c) for c in p.controls if not c.startswith("w") or c in names]
    nets: tuple[Net, ...] = tuple(p.nets[old] for old in kept)
    laws = tuple(replace(law, net=kept.index(law.net)) for law in laws)
    bc = "none" if p.laws[i].term == "boundary" else p.bc
    mass = p.mass or bc == "none"
    return replace(p, laws=laws, nets=nets, controls=tuple(controls or ["w0"]), bc=bc, mass=mass)
