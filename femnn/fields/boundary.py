"""Private copies of Dirichlet boundary conditions."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import firedrake as fd
import ufl
from finat.physically_mapped import PhysicallyMappedElement

from femnn.fields.copies import copy_values
from femnn.fields.interpolation import Interpolated
from femnn.fields.projection import Projected


class BoundaryValues:
    """A boundary condition with values of its own, loaded from the user's or the tape's.

    Parameters
    ----------
    source
        The user's condition.

    Attributes
    ----------
    bc : firedrake.DirichletBC
        The private condition.
    value : firedrake.Function
        Its values.
    given : Interpolated
        What the values were interpolated from.
    """

    def __init__(self, source: fd.DirichletBC):
        self.source = source
        space = source.function_space()
        self.value, self._change = fd.Function(space), fd.Function(space)
        self.bc = source.reconstruct(g=self.value)
        self._bc_of_change = source.reconstruct(g=self._change)
        # Kept as long as a block on a tape uses it.
        self._made: weakref.WeakValueDictionary[Any, Interpolated] = weakref.WeakValueDictionary()
        self.given = self.present()

    def present(self) -> Interpolated:
        """What the user's condition says now; equal expressions give the same.

        Raises
        ------
        ValueError
            If it is a number, and the degrees of freedom are no values.
        """
        expression = value_of(self.source)
        if isinstance(expression, ufl.constantvalue.ScalarValue):
            _check_number(self.source, expression)
        made = self._made.get(expression)
        if made is None:
            kind = Projected if is_projected(self.source) else Interpolated
            made = self._made[expression] = kind(expression, self.source.function_space())
        return made

    def load(self, given: Interpolated, values: Mapping[Any, Any]) -> None:
        """Take values, from those of Functions and Constants in them.  Collective."""
        self.given = given
        copy_values(given.load(values), self.value)

    def cotangent(self, field: Any) -> fd.Cofunction:
        """The part of a field that is at the condition's nodes, for :attr:`given`.

        Parameters
        ----------
        field
            A Function on the space of the problem.
        """
        for index in self.source._indices:
            field = field.sub(index)
        part = fd.Cofunction(self.given.space.dual())
        nodes = self.bc.nodes[self.bc.nodes < part.dat.dataset.set.size]
        part.dat.data_wo[nodes] = field.dat.data_ro[nodes]
        return part

    def zero(self, field: Any) -> None:
        """Let a field be zero at the condition's nodes."""
        self.bc.zero(field)

    def homogeneous(self) -> list[fd.DirichletBC]:
        """Firedrake's condition that a change is zero there."""
        return [self.bc.reconstruct(g=0)]

    def lift(self, change: fd.Function | None, into: fd.Function) -> None:
        """Set a change of the values (``None`` for zero) at the condition's nodes."""
        if change is None:
            self.bc.zero(into)
        else:
            copy_values(change, self._change)
            self._bc_of_change.apply(into)


def _check_number(condition: fd.DirichletBC, number: Any) -> None:
    """Refuse what Firedrake would give to fluxes and derivatives at a boundary too."""
    space = condition.function_space()
    element = getattr(space.finat_element, "base_element", space.finat_element)
    if element.value_shape or isinstance(element, PhysicallyMappedElement):
        raise ValueError(
            f"a DirichletBC on {condition.sub_domain} has the number {number} for a value, which "
            f"would be every degree of freedom of {space.ufl_element()} there, and these are no "
            f"values: give an expression of the shape {space.value_shape}, of Constants or "
            "coordinates."
        )


def is_projected(condition: fd.DirichletBC) -> bool:
    """Whether Firedrake projects the condition's value, as its element has no interpolation."""
    update: Any = getattr(condition, "_function_arg_update", None)
    return update is not None and not isinstance(update, functools.partial)


def value_of(condition: fd.DirichletBC) -> Any:
    """The value that a condition has now, as a number or a UFL expression."""
    update: Any = getattr(condition, "_function_arg_update", None)
    if update is None:
        return condition._function_arg
    if isinstance(update, functools.partial):
        assembled: Any = update.func
        return assembled.__self__.operand
    return update.__self__.source
