"""The kinds of controls: weights of networks, Constants, fields."""

from __future__ import annotations

import numbers
from typing import Any, Protocol

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint import Control

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.tape.weights import Weights
from femnn.training.layout import Layout
from femnn.training.metrics import Metric, metric_of
from femnn.training.order import geometric_order


class Kind(Protocol):
    """A control as a vector of numbers, the same on every rank.

    Attributes
    ----------
    object : Weights, firedrake.Constant or firedrake.Function
        What the user holds.
    name : str
        Its name.
    metric : Metric or None
        Its inner product; ``None`` for Euclid's.
    """

    object: Any
    name: str
    metric: Metric | None

    def __len__(self) -> int: ...

    def read(self, comm: MPI.Comm) -> np.ndarray:
        """The value where an optimisation starts, checked.  Collective."""

    def write(self, vector: np.ndarray) -> None:
        """Give the user's object these values.  Collective."""

    def value(self, vector: np.ndarray) -> Any:
        """A new object of the kind with these values, for the reduced functional.  Collective."""

    def flat(self, derivative: Any) -> np.ndarray:
        """A derivative, as the reduced functional gives it, as a vector.  Collective."""

    def bound(self, bound: Any) -> np.ndarray:
        """What this rank has of a bound that is given as a number, an array or an object.

        Raises a ``TypeError`` or a ``ValueError`` where it is none, perhaps on one rank only.
        """

    def gather(self, own: np.ndarray) -> np.ndarray:
        """The vector from each rank's part.  Collective."""

    def order(self) -> np.ndarray:
        """The vector's places in an order that does not depend on the ranks.  Collective."""

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """The rows, of a matrix with one for each number, that the rank has on the tape."""


class OfWeights:
    """The weights of a network; see :class:`Kind`."""

    metric: Metric | None = None

    def __init__(self, control: Control):
        self.object: Weights = control.control
        self.name = self.object.name

    def __len__(self) -> int:
        return len(self.object)

    def read(self, comm: MPI.Comm) -> np.ndarray:
        """See :class:`Kind`."""
        self.object.check_ranks(comm)
        self.object.check(self.object.vector)
        return self.object.vector

    def write(self, vector: np.ndarray) -> None:
        """See :class:`Kind`."""
        self.object.assign(vector)

    def value(self, vector: np.ndarray) -> Weights:
        """See :class:`Kind`."""
        return self.object.like(vector)

    def flat(self, derivative: Weights) -> np.ndarray:
        """See :class:`Kind`."""
        return derivative.vector

    def bound(self, bound: Any) -> np.ndarray:
        """See :class:`Kind`."""
        bound = bound.vector if isinstance(bound, Weights) else bound
        return _spread(bound, (len(self),), f"the {len(self)} weights of {self.name}")

    def order(self) -> np.ndarray:
        """See :class:`Kind`."""
        return np.arange(len(self))

    def gather(self, own: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return own

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return matrix


class OfConstant:
    """A Constant of any shape; see :class:`Kind`."""

    metric: Metric | None = None

    def __init__(self, control: Control):
        self._control = control
        self.object: fd.Constant = control.control
        self.name = self.object.name
        self._shape = self.object.ufl_shape

    def __len__(self) -> int:
        return int(np.prod(self._shape, dtype=int))

    def read(self, comm: MPI.Comm) -> np.ndarray:
        """See :class:`Kind`."""
        return np.array(_present(self._control).dat.data_ro, dtype=float).ravel()

    def write(self, vector: np.ndarray) -> None:
        """See :class:`Kind`."""
        self.object.assign(self.value(vector).dat.data_ro)

    def value(self, vector: np.ndarray) -> fd.Constant:
        """See :class:`Kind`."""
        return fd.Constant(vector.reshape(self._shape))

    def flat(self, derivative: Any) -> np.ndarray:
        """See :class:`Kind`."""
        return np.array(derivative.dat.data_ro, dtype=float).ravel()

    def bound(self, bound: Any) -> np.ndarray:
        """See :class:`Kind`."""
        return _spread(_number(bound), self._shape, f"the Constant {self.name}")

    def order(self) -> np.ndarray:
        """See :class:`Kind`."""
        return np.arange(len(self))

    def gather(self, own: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return own

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return matrix


class OfField:
    """A Function on any space; see :class:`Kind`."""

    def __init__(self, control: Control):
        self._control = control
        self.object: fd.Function = control.control
        self.name = self.object.name()
        self._check()
        self._layout = Layout(self.object)
        self.metric = metric_of(self.object, self._layout, control.riesz_map)

    def __len__(self) -> int:
        return len(self._layout)

    def read(self, comm: MPI.Comm) -> np.ndarray:
        """See :class:`Kind`."""
        return self.gather(self._layout.own(_present(self._control)))

    def write(self, vector: np.ndarray) -> None:
        """See :class:`Kind`."""
        self._layout.store(vector, self.object)

    def value(self, vector: np.ndarray) -> fd.Function:
        """See :class:`Kind`."""
        field = fd.Function(self.object.function_space(), name=self.name)
        self._layout.store(vector, field)
        return field

    def flat(self, derivative: fd.Cofunction) -> np.ndarray:
        """See :class:`Kind`."""
        return self.gather(self._layout.own(derivative))

    def order(self) -> np.ndarray:
        """See :class:`Kind`."""
        return geometric_order(self.object)

    def bound(self, bound: Any) -> np.ndarray:
        """See :class:`Kind`."""
        space = self.object.function_space()
        if isinstance(bound, fd.Function):
            if bound.function_space() != space:
                raise ValueError(
                    f"fit: a bound of {self.name} is a Function on another space: interpolate it, "
                    f"Function({self.name}.function_space()).interpolate({bound.name()})."
                )
            return self._layout.own(bound)
        shapes = [dat.data_ro.shape for dat in self.object.dat.split]
        shape = shapes[0] if len(shapes) == 1 else ()
        own = _spread(_number(bound), shape, f"the field {self.name}")
        return np.broadcast_to(own, self._layout.local_length)

    def gather(self, own: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return self._layout.gather(own)

    def rows(self, matrix: np.ndarray) -> np.ndarray:
        """See :class:`Kind`."""
        return self._layout.rows(matrix)

    def _check(self) -> None:
        """Raise where the Function is not one whose values are free."""
        space = self.object.function_space()
        if isinstance(self.object, NeuralCoefficient):
            raise TypeError(
                f"fit: a control is the coefficient {self.name}, whose values its network makes: "
                "wanted its weights, Control(kappa.weights)."
            )
        if any(self.object is part.mesh().coordinates for part in space.subspaces):
            raise TypeError(
                f"fit: a control is {self.name}, the coordinates of a mesh: wanted Weights, "
                "Constants or Functions. For a shape, move the mesh by a Function that is the "
                "control: mesh.coordinates.assign(mesh.coordinates + d), Control(d)."
            )
        if space.component is not None:
            raise TypeError(
                f"fit: a control is {self.name}, a component of a vector field, which the tape "
                "does not follow: take the vector field itself."
            )


def kind_of(control: Control) -> Kind:
    """A control as one of the kinds.  Collective.

    Raises
    ------
    TypeError
        If it is of none.
    """
    value = control.control
    if isinstance(value, Weights):
        return OfWeights(control)
    if isinstance(value, fd.Constant):
        return OfConstant(control)
    if isinstance(value, fd.Function):
        return OfField(control)
    raise TypeError(
        f"fit: a control is a {type(value).__name__}, wanted Weights (for example "
        "Control(kappa.weights)), Functions or Constants. For a number take a Constant in its "
        "place; for the shape of a mesh a Function that moves it."
    )


def _present(control: Control) -> Any:
    """The user's object, or the tape's value where the object has become another node since."""
    if control.control.block_variable is control.block_variable:
        return control.control
    return control.tape_value()


def _number(bound: Any) -> Any:
    """A Constant's values, whatever else is given as it is."""
    return bound.dat.data_ro.reshape(bound.ufl_shape) if isinstance(bound, fd.Constant) else bound


def _spread(bound: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """A number or an array of a shape as a flat array."""
    if (
        not isinstance(bound, (numbers.Real, np.ndarray))
        or np.asarray(bound).dtype.kind not in "iuf"
    ):
        raise TypeError(
            f"fit: a bound of {what} is a {type(bound).__name__}, wanted None, a number, an array "
            "of its shape, or an object of its kind."
        )
    array = np.asarray(bound, dtype=float)
    if array.shape not in ((), shape):
        raise ValueError(
            f"fit: a bound of {what} has shape {array.shape}, wanted {shape} or one number."
        )
    return np.broadcast_to(array, shape).ravel()
