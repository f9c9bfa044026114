"""Points on facets, to which expressions get by integrals."""

from __future__ import annotations

from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.assemble import get_assembler
from pyadjoint.tape import no_annotations
from ufl.algorithms import extract_arguments
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.apply_restrictions import apply_restrictions

from femnn.fields.copies import CoordinateState
from femnn.fields.stamp import Stamp, Validity
from femnn.points.pointset import Carry, PointSet, Rows
from femnn.points.rules import facet_element


class FacetPoints(PointSet):
    """The points of the default quadrature rule on the boundary's facets.

    A point's test function is one there and zero at the others, so an expression's integral
    against it, divided by the point's weight, is the expression's value: tensor-product cells
    cannot interpolate to facets, and an expression may be of both sides of one.

    Parameters
    ----------
    mesh
        The mesh.
    degree
        The rule's degree.
    integral_type
        Which facets, as in UFL.

    Attributes
    ----------
    chosen : numpy.ndarray
        The points of these facets among those of the element that this rank owns.
    """

    def __init__(self, mesh: Any, degree: int, integral_type: str):
        super().__init__(mesh, facet_element(mesh, degree, integral_type))
        self.integral_type, self.degree = integral_type, degree
        self._measure = ufl.Measure(integral_type, mesh, metadata={"quadrature_degree": degree})
        self._moved = CoordinateState(mesh)
        weights = self._integrals()
        self.chosen = np.flatnonzero(weights)
        self._known_weights = weights[self.chosen]
        self._weighed = Validity(mesh.comm)
        self._weighed.note(self._size())

    @property
    def n_points(self) -> int:
        """The number of these facets' points that this rank owns."""
        return len(self.chosen)

    def rows(self, function: Any) -> np.ndarray:
        """The owned points' values; see :class:`PointSet`."""
        return super().rows(function)[self.chosen]

    def fill(self, function: Any, values: np.ndarray) -> None:
        """Write one row for each owned point, and zero at the other facets' points."""
        data = function.dat.data_wo
        data[...] = 0.0
        data[self.chosen] = values.reshape(-1, *data.shape[1:])

    @no_annotations
    def values_of(self, expression: Any) -> Rows:
        """What evaluates a vector expression at the points; see :class:`PointSet`."""
        space = self.space(expression.ufl_shape)
        target = fd.Cofunction(space.dual())
        test = self._of_facet(fd.TestFunction(space))
        assembler = get_assembler(ufl.inner(expression, test) * self._measure)

        def rows() -> np.ndarray:
            assembler.assemble(tensor=target)
            return self.rows(target) / self._weights()[:, None]

        return rows

    @no_annotations
    def transposed(self, change: Any) -> Carry:
        """What carries a cotangent back to a test function; see :class:`PointSet`."""
        (test,) = extract_arguments(change)
        result = fd.Cofunction(test.function_space().dual())
        at_points = fd.Function(self.space(change.ufl_shape))
        form = ufl.inner(self._of_facet(at_points), change) * self._measure
        evaluate = partial(get_assembler(form).assemble, tensor=result)

        def carried(cotangent: np.ndarray) -> fd.Cofunction:
            self.fill(at_points, cotangent / self._weights()[:, None])
            result.zero()
            evaluate()
            return result

        return carried

    def _of_facet(self, field: Any) -> Any:
        """A field at the points, as it stands in an integral over the facets."""
        return field

    def _weights(self) -> np.ndarray:
        """The rule's weights at the points, with the facets' present size.  Collective."""
        present = self._size()
        if not self._weighed.holds(present):
            self._known_weights = self._integrals()[self.chosen]
            self._weighed.note(present)
        return self._known_weights

    def _size(self) -> Stamp:
        return Stamp((self._moved(),))

    @no_annotations
    def _integrals(self) -> np.ndarray:
        """The integrals of the points' test functions."""
        return fd.assemble(
            self._of_facet(fd.TestFunction(self.space())) * self._measure
        ).dat.data_ro


class InteriorFacetPoints(FacetPoints):
    """The points of the default quadrature rule on facets between cells, one for both sides."""

    between_cells = True

    def accept(self, inputs: Any) -> Any:
        """The inputs with the side of a facet from which each of their terms comes.

        Raises
        ------
        ValueError
            If a term differs between the two cells and does not say its side.
        """
        lowered = apply_derivatives(apply_algebra_lowering(inputs))
        try:
            return apply_restrictions(lowered, {self.mesh: "+"})
        except ValueError as error:
            raise ValueError(
                f"operands on interior facets: {error} Write u('+'), u('-'), avg(u) or jump(u) "
                "where an operand differs between the two cells."
            ) from error

    def _of_facet(self, field: Any) -> Any:
        return field("+")
