"""Values on the tape as rows of numbers."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import AdjFloat

from femnn.tape.between import NoColumns
from femnn.tape.control import VectorControl

FIELDS = (fd.Function, fd.Cofunction)


def numbers_of(value: Any) -> np.ndarray:
    """A copy of a value's numbers in one row; of a field those that the rank owns."""
    if isinstance(value, VectorControl):
        return value.vector.copy()
    if isinstance(value, FIELDS):
        with value.dat.vec_ro as vector:
            return vector.array_r.copy()
    if isinstance(value, fd.Constant):
        return np.array(value.dat.data_ro, dtype=float).ravel()
    return np.asarray(value, dtype=float).ravel()


def size_of(value: Any) -> int | None:
    """How many numbers weights, a vector or a Constant are; ``None`` for all else."""
    if isinstance(value, VectorControl):
        return len(value.vector)
    if isinstance(value, fd.Constant):
        return int(np.prod(value.ufl_shape, dtype=int))
    return None


def length_of(value: Any) -> int:
    """How many numbers :func:`numbers_of` gives."""
    if is_field(value):
        with value.dat.vec_ro as vector:
            return vector.local_size
    size = size_of(value)
    return 1 if size is None else size


def change_of(value: Any, change: Any) -> np.ndarray:
    """A change of a value, ``None`` for none, as numbers."""
    return np.zeros(length_of(value)) if change is None else numbers_of(change)


def is_field(value: Any) -> bool:
    """Whether a value is a field, of which each rank has a part."""
    return isinstance(value, FIELDS)


def value_of(numbers: np.ndarray, like: Any) -> Any:
    """Numbers as a value like another.

    Raises
    ------
    NoColumns
        If it is of no known kind.
    """
    if isinstance(like, VectorControl):
        return like.like(numbers)
    if isinstance(like, fd.Constant):
        return fd.Constant(numbers.reshape(like.ufl_shape))
    if isinstance(like, AdjFloat):
        return AdjFloat(numbers[0])
    if not is_field(like):
        raise NoColumns
    field = (fd.Cofunction if isinstance(like, fd.Cofunction) else fd.Function)(
        like.function_space()
    )
    with field.dat.vec_wo as vector:
        vector.array[:] = numbers
    return field
