"""Values of Firedrake and of torch: fields, Constants and numbers as arrays and tensors.

A field's array is rank-local: the values of the degrees of freedom that the rank owns, in the
order of ``Function.dat.data_ro``.  Constants, vectors and Functions on the Real space are *shared*:
the same on every rank.
"""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import torch
from torch import Tensor
from ufl.duals import is_dual

from femnn.fields.copies import is_real
from femnn.tape.numbers import FIELDS
from femnn.tape.vector import Vector
from femnn.tape.weights import Weights


def is_shared(value: Any) -> bool:
    """Whether a value is the same on every rank."""
    return not isinstance(value, FIELDS) or is_real(value.function_space())


def check_one_block(space: Any, who: str, what: str) -> None:
    """Raise a ``TypeError`` where the values of a space's fields are not one array of their own."""
    if len(space) > 1:
        raise TypeError(
            f"{who}: the {what} is in a mixed space, whose values are not one tensor: record the "
            "model with a Function for each part, which is assigned to or from field.subfunctions."
        )
    if space.component is not None:
        raise TypeError(
            f"{who}: the {what} is a component of a vector field, which the tape does not follow: "
            "take the vector field itself, and its component in torch."
        )


def array_of(value: Any) -> np.ndarray:
    """A copy of a field's, vector's or Constant's values; numbers as float arrays."""
    if isinstance(value, Vector):
        return value.array.copy()
    if not isinstance(value, (*FIELDS, fd.Constant)):
        return np.asarray(value, dtype=float)
    values = np.array(value.dat.data_ro)
    return values.reshape(value.ufl_shape) if isinstance(value, fd.Constant) else values


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of :func:`array_of`."""
    if isinstance(value, Vector):
        return value.shape
    return value.ufl_shape if isinstance(value, fd.Constant) else value.dat.data_ro.shape


def checked_array(value: Any, tensor: Tensor) -> np.ndarray:
    """A tensor as an array; an error where it is not of ``value``'s shape or not floating."""
    if not tensor.is_floating_point():
        raise TypeError(
            f"PDELayer got a tensor of {tensor.dtype} for {value}, wanted a floating dtype: "
            "convert it with .double()."
        )
    array, wanted = numpy_of(tensor), shape_of(value)
    if array.shape != wanted:
        raise ValueError(
            f"PDELayer got a tensor of shape {array.shape} for {value}, wanted {wanted}"
            f"{'' if is_shared(value) else ': the values this rank owns'}."
        )
    return array


def numpy_of(tensor: Tensor) -> np.ndarray:
    """A tensor's values in float64."""
    return tensor.detach().cpu().double().numpy()


def tensor_of(value: Any) -> Tensor:
    """The values of a field, a Constant or a number as a new tensor in float64."""
    return torch.as_tensor(array_of(value))


def like(value: Any, array: np.ndarray) -> Any:
    """A new value of the kind of ``value``.  Collective for fields."""
    if isinstance(value, (Vector, Weights)):
        return value.like(array)
    if isinstance(value, fd.Constant):
        return fd.Constant(array)
    return field_on(value.function_space(), array)


def field_on(space: Any, array: np.ndarray, kind: type[fd.Function] = fd.Function) -> Any:
    """A Function, on a dual space a Cofunction, with these values.  Collective."""
    field = fd.Cofunction(space) if is_dual(space) else kind(space)
    data = field.dat.data_wo
    data[...] = array.reshape(data.shape)
    return field
