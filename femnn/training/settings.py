"""What a training is asked to do, checked before anything is computed."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """When to stop, and what the optimiser is told.

    Attributes
    ----------
    maxiter
        Number of iterations at most.
    gtol
        Stop when no entry of the gradient exceeds it.
    ftol
        Stop when the loss falls by less than this fraction of it.
    target
        Stop when the loss is at or below.
    learning_rate
        Length of a step, for optimisers that have one; ``None`` for the optimiser's own choice.
    options
        The optimiser's further options.
    patience
        An evaluation that takes more than this many times the usual work is given up; ``None``
        where none is.

    Raises
    ------
    TypeError, ValueError
        If a setting is not of its kind or out of its range.
    """

    maxiter: int = 200
    gtol: float = 1e-10
    ftol: float = 0.0
    target: float | None = None
    learning_rate: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    patience: float | None = 10.0

    def __post_init__(self) -> None:
        check_whole("maxiter", self.maxiter)
        check_number("gtol", self.gtol, least=0.0)
        check_number("ftol", self.ftol, least=0.0)
        if self.target is not None:
            check_number("target", self.target)
        if self.learning_rate is not None:
            check_number("learning_rate", self.learning_rate, least=0.0)
            if self.learning_rate == 0.0:
                raise ValueError("fit: learning_rate=0 takes no steps: wanted a positive number.")
        if self.patience is not None:
            check_number("patience", self.patience, least=1.0)
        if not isinstance(self.options, Mapping):
            raise TypeError(
                f"fit: options is a {type(self.options).__name__}, wanted a dict of names and "
                "values."
            )

    def check_use(
        self, method: str, uses: Collection[str], options: Collection[str] | None
    ) -> None:
        """Raise a ``ValueError`` where something is set that the method would not look at."""
        for name in ("ftol", "learning_rate"):
            if name not in uses and getattr(self, name):
                raise ValueError(
                    f"fit: {name}={getattr(self, name)} is nothing that {method} uses: leave it "
                    "out, or choose another method."
                )
        for name in self.options:
            if options is not None and name not in options:
                wanted = (
                    f"wanted some of {', '.join(sorted(options))}" if options else "it has its own"
                )
                raise ValueError(
                    f"fit: options has {name!r}, which {method} does not take: {wanted}."
                    f"{_hint(name, uses, options)}"
                )


def check_whole(name: str, value: Any, least: int = 0, who: str = "fit") -> None:
    """Raise unless ``value`` is a whole number of at least ``least``; says who was called."""
    try:
        number = operator.index(value)
    except TypeError:
        kind = ValueError if isinstance(value, numbers.Real) else TypeError
        raise kind(f"{who}: {name}={value!r}, wanted a whole number.") from None
    if number < least:
        raise ValueError(f"{who}: {name}={value}, wanted {least} or more.")


def check_number(name: str, value: Any, least: float = -math.inf, who: str = "fit") -> None:
    """Raise unless ``value`` is a finite number of at least ``least``; says who was called."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{who}: {name}={value!r}, wanted a number.")
    if not math.isfinite(value) or value < least:
        bound = "a finite number" if least == -math.inf else f"a finite number, {least:g} or more"
        raise ValueError(f"{who}: {name}={value}, wanted {bound}.")


def _hint(name: str, uses: Collection[str], options: Collection[str]) -> str:
    """Where an option that is not known belongs, or what it is likely to mean."""
    arguments = {"lr": "learning_rate", "maxiter": "maxiter", "gtol": "gtol", "ftol": "ftol"}
    argument = arguments.get(name)
    if argument in ("maxiter", "gtol") or argument in uses:
        return f" It is an argument of fit: {argument}=..."
    close = difflib.get_close_matches(name, list(options), n=1)
    return f" Do you mean {close[0]!r}?" if close else ""
