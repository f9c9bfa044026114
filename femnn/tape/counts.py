"""How much work a model makes: its runs, the linear systems solved in them, and limits of these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import firedrake as fd


@dataclass
class Solves:
    """How often a model was run and differentiated, equal on all ranks.

    A run is one of all equations on the tape: in a time loop of all steps.

    Attributes
    ----------
    forward
        Runs of the model.
    adjoint
        Runs of its adjoint: gradients, and one for each product with the Gauss-Newton matrix.
    tangent
        Directions of its tangent-linear model: one for each product with the Gauss-Newton matrix or
        the Hessian, as many as there are controls for a matrix, which carries them together.
    hessian
        Runs of its second-order adjoint: products with the Hessian.
    linear
        Linear systems that femnn's solvers have solved in all these: one for each iteration of
        Newton's method, for each adjoint, and each direction, and where one of these has left
        over too much one more.  Those of Firedrake's own solvers do not count.
    """

    forward: int = 0
    adjoint: int = 0
    tangent: int = 0
    hessian: int = 0
    linear: int = 0

    def __add__(self, other: Solves) -> Solves:
        return Solves(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Solves)))

    def __str__(self) -> str:
        known = {f.name: getattr(self, f.name) for f in fields(Solves)}
        return ", ".join(f"{n} {name}" for name, n in known.items() if n) or "none"


class GivenUp(fd.ConvergenceError):
    """A run of the model that takes much more work than it may."""


class Budget:
    """How many linear systems a run of the model may solve; see :func:`at_most`.

    Attributes
    ----------
    used
        How many it has solved.
    solves
        In how many solves of equations.
    """

    def __init__(self, most: float, why: str):
        self._most, self._why = most, why
        self.used = self.solves = 0

    @property
    def left(self) -> float:
        """How many it may still solve."""
        return self._most - self.used

    def check(self) -> None:
        """Raise where none are left."""
        if self.left <= 0:
            raise GivenUp(f"given up after {self.used} iterations of Newton's method: {self._why}")


_counts: list[Solves] = []
_parts: list[None] = []  # one for each part that is being run
_budgets: list[Budget] = []


@contextmanager
def counting() -> Iterator[Solves]:
    """Count what is done inside."""
    counts = Solves()
    _counts.append(counts)
    try:
        yield counts
    finally:
        _counts[:] = [c for c in _counts if c is not counts]


def count(what: str, n: int = 1) -> None:
    """Say that something was done, to all that count.

    Parameters
    ----------
    what
        One of the attributes of :class:`Solves`.
    n
        How often; the same on all ranks.
    """
    for counts in _counts if what == "linear" or not _parts else ():
        setattr(counts, what, getattr(counts, what) + n)
    if what == "linear":
        for budget in _budgets:
            budget.used += n


@contextmanager
def counted_as_part() -> Iterator[None]:
    """Count linear systems only inside: what is run is part of a run that counts as one."""
    _parts.append(None)
    try:
        yield
    finally:
        _parts.pop()


def count_elsewhere(linear: int, solves: int) -> None:
    """Count what other ranks have solved for a part of the model that is theirs.

    Parameters
    ----------
    linear
        Number of linear systems.
    solves
        Number of solves of equations.
    """
    count("linear", linear)
    for budget in _budgets:
        budget.solves += solves


@contextmanager
def at_most(linear: float, why: str) -> Iterator[Budget]:
    """Give up a run of the model that solves more linear systems.

    Parameters
    ----------
    linear
        How many it may solve, the same on all ranks; infinity where it does not matter.
    why
        Why no more, for the message.

    Yields
    ------
    Budget
        What was used of it.

    Raises
    ------
    GivenUp
        From the solver that would go on.
    """
    budget = Budget(linear, why)
    _budgets.append(budget)
    try:
        yield budget
    finally:
        _budgets[:] = [b for b in _budgets if b is not budget]


def begin_solve() -> float:
    """How many iterations a solve that begins may do.

    Raises
    ------
    GivenUp
        If none are left.
    """
    check_budgets()
    for budget in _budgets:
        budget.solves += 1
    return min((budget.left for budget in _budgets), default=math.inf)


def check_budgets() -> None:
    """Raise a :class:`GivenUp` where nothing is left of what a run may do."""
    for budget in _budgets:
        budget.check()
