"""Points of a mesh, and what carries UFL expressions to them and cotangents back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import firedrake as fd
import numpy as np
from finat.ufl import TensorElement, VectorElement

Rows = Callable[[], np.ndarray]
Carry = Callable[[np.ndarray], fd.Cofunction]


class PointSet(ABC):
    """The points at which a network is evaluated.

    Subclasses know what the points are, and from that how an expression gets there.

    Parameters
    ----------
    mesh
        The mesh.
    element
        The scalar element whose degrees of freedom are values at the points.

    Attributes
    ----------
    integral_type : str
        ``"cell"``, ``"node"``, or one of facets, as in UFL.
    degree : int or None
        The quadrature rule's degree; ``None`` for nodes.
    between_cells : bool
        Whether the points are on interior facets, where operands are of one side or both.
    offers_matrices : bool
        Whether expressions are interpolated to the points, so that a trial function gives a matrix.
    """

    integral_type: str
    degree: int | None = None
    between_cells = False
    offers_matrices = False

    def __init__(self, mesh: Any, element: Any):
        self.mesh = mesh
        self.element = element

    def space(self, shape: tuple[int, ...] = ()) -> Any:
        """Function space of values of ``shape`` at the points."""
        element = self.element
        if len(shape) == 1:
            element = VectorElement(element, dim=shape[0])
        elif shape:
            element = TensorElement(element, shape=shape)
        return fd.FunctionSpace(self.mesh, element)

    @cached_property
    def n_points(self) -> int:
        """The number of points that this rank owns."""
        return self.space().node_set.size

    def rows(self, function: Any) -> np.ndarray:
        """The owned points' values of a Function or Cofunction, shape ``(n_points, n)``."""
        data = function.dat.data_ro
        return data.reshape(len(data), int(np.prod(data.shape[1:], dtype=int)))

    def fill(self, function: Any, values: np.ndarray) -> None:
        """Write one row of ``values`` for each owned point into a Function or Cofunction."""
        data = function.dat.data_wo
        data[...] = values.reshape(data.shape)

    def accept(self, inputs: Any) -> Any:
        """A network's inputs as they are evaluated here.

        Raises
        ------
        ValueError
            If an input has no value here, or several.
        """
        return inputs

    @abstractmethod
    def values_of(self, expression: Any) -> Rows:
        """What evaluates a vector expression at the points.

        Returns
        -------
        callable
            Gives one row for each owned point, overwritten at its next call.  Collective, as is
            each of its calls.
        """

    @abstractmethod
    def transposed(self, change: Any) -> Carry:
        """What carries a cotangent at the points to a test function.

        Parameters
        ----------
        change
            A vector expression, linear in a test function.

        Returns
        -------
        callable
            Takes one row for each owned point.  Its result is overwritten at the next call.
            Collective, as is each of its calls.
        """
