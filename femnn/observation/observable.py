"""What can be observed of a model: numbers with names, in the user's order on every rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import ufl
from mpi4py import MPI

from femnn.coefficient.coefficient import neural_coefficients
from femnn.coefficient.forms import check_interpolated
from femnn.parallel import same_on_ranks
from femnn.tape.vector import Vector


class Observable(ABC):
    """Numbers that a model gives for something that can be measured.

    Attributes
    ----------
    names : tuple of str
        One for each place of observation.
    comm : mpi4py.MPI.Comm
        The ranks that call together.
    """

    names: tuple[str, ...]
    comm: MPI.Comm

    @abstractmethod
    def __call__(self, u: Any) -> Vector:
        """The model's values, shape ``(n, ...)`` in the order of the names; recorded."""

    def __len__(self) -> int:
        return len(self.names)


def checked_names(who: str, names: Iterable[Any], n: int | None = None) -> tuple[str, ...]:
    """Names as strings; an error where two are the same or there are not ``n``."""
    names = tuple(str(name) for name in names)
    if n is not None and len(names) != n:
        raise ValueError(f"{who} got {len(names)} names, wanted {n}: one for each point.")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(
            f"{who}: {listed(doubled)} stands more than once among the names: give each place a "
            "name of its own, or leave the second row out of the table."
        )
    return names


def check_same_on_ranks(who: str, comm: MPI.Comm, what: str, *arrays: Any) -> None:
    """Raise on all ranks where they hold different data.  Collective."""
    data = b"".join(_bytes(array) for array in arrays)
    if not same_on_ranks(comm, data):
        raise RuntimeError(
            f"{who}: the {what} differ between ranks: wanted the same on all. Read or draw them on "
            "rank 0 and give them to all (comm.bcast), or use the same seed on every rank."
        )


def as_expression(who: str, u: Any) -> Any:
    """A UFL expression; neural coefficients in it, at nodes, are brought up to date.

    Collective.

    Raises
    ------
    NotImplementedError
        If a coefficient in it has its values at quadrature points.
    TypeError
        If it is none.
    """
    try:
        expression = ufl.as_ufl(u)
    except ValueError as error:
        raise TypeError(
            f"{who} got a {type(u).__name__}: wanted a Function or an expression, such as "
            "u, split(u)[0] or grad(u)."
        ) from error
    check_interpolated(expression)
    for coefficient in neural_coefficients(expression):
        coefficient.update()
    return expression


def entry_names(names: Sequence[str], shape: tuple[int, ...]) -> list[str]:
    """Names of single numbers: those of places, with the component where there are several."""
    if shape == ():
        return list(names)
    parts = ["[" + ",".join(map(str, index)) + "]" for index in np.ndindex(shape)]
    return [name + part for name in names for part in parts]


def listed(names: Sequence[Any], most: int = 5) -> str:
    """The first few of some names, and how many more there are."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _bytes(array: Any) -> bytes:
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        return np.where(np.isnan(array), np.nan, array).tobytes()  # NaN of one kind
    return repr(array).encode()
