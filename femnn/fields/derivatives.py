"""Derivatives of UFL forms and expressions: by Functions, by Constants, and along directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations
from ufl.algorithms import expand_derivatives
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction


@dataclass(frozen=True)
class Direction:
    """A Function or Constant in a form, and its change.

    Attributes
    ----------
    of, change
        Both Functions on one space, or both Constants of one shape.
    """

    of: Any
    change: Any

    @classmethod
    @no_annotations
    def like(cls, of: Any) -> Direction:
        """A zero direction."""
        if isinstance(of, fd.Constant):
            return cls(of, fd.Constant(np.zeros(of.ufl_shape)))
        return cls(of, fd.Function(of.function_space()))

    @no_annotations
    def assign(self, value: Any) -> None:
        """Set the change."""
        if isinstance(self.of, fd.Constant):
            values = value.dat.data_ro if isinstance(value, fd.Constant) else np.asarray(value)
            self.change.assign(values.reshape(self.of.ufl_shape))
        else:
            self.change.assign(value)


def set_directions(directions: Mapping[Any, Direction], dots: Mapping[Any, Any]) -> list[Direction]:
    """Take a change of each value that has one; the directions that move.

    Parameters
    ----------
    directions
        Of each value.
    dots
        Value to change; ``None``, or nothing, for none.
    """
    moving = []
    for source, direction in directions.items():
        if dots.get(source) is not None:
            direction.assign(dots[source])
            moving.append(direction)
    return moving


def derivative(f: Any, of: Any, change: Any) -> Any:
    """The derivative of a form or an expression in a direction.

    Parameters
    ----------
    f
        A form, or an expression, whose derivatives are then carried out.
    of
        The Function or Constant in it that changes.
    change
        Its change: of a Function another one or an argument, of a Constant an expression of its
        shape.
    """
    if isinstance(of, fd.Constant):
        return _by_constant(f, of, lambda index: change[index] if index else change)
    if isinstance(f, ufl.Form):
        return fd.derivative(f, of, change)
    return apply_derivatives(apply_algebra_lowering(ufl.derivative(f, of, change)))


def entry_derivative(f: Any, constant: fd.Constant, index: tuple[int, ...]) -> Any:
    """The derivative of a form or an expression with respect to one entry of a Constant."""
    return _by_constant(f, constant, lambda other: 1 if other == index else 0)


def along(f: Any, directions: Sequence[Direction]) -> Any:
    """The derivative of a form or an expression along several directions together."""
    if isinstance(f, ufl.Form):
        f, total = expand_derivatives(f), ufl.Form([])
        if not isinstance(f, ufl.Form) or f.empty():
            return total
    else:
        total = ufl.constantvalue.Zero(f.ufl_shape)
    for direction in directions:
        total = total + derivative(f, direction.of, direction.change)
    return total


def constant_gradient(
    constant: fd.Constant, entry: Callable[[tuple[int, ...]], float]
) -> np.ndarray:
    """What ``entry`` gives for the index of each of a Constant's entries, in its shape.

    Parameters
    ----------
    constant
        The Constant.
    entry
        Gives a number for an index, ``()`` for a scalar.  All ranks call it for the same indices
        in the same order.
    """
    gradient = np.zeros(constant.ufl_shape)
    for index in np.ndindex(constant.ufl_shape):
        gradient[index] = entry(index)
    return gradient


def _by_constant(f: Any, constant: fd.Constant, change: Callable[[tuple[int, ...]], Any]) -> Any:
    """The derivative at s = 0 where each entry of a Constant moves by s times its change."""
    step = ufl.variable(ufl.as_ufl(0))
    if constant.ufl_shape == ():
        moved = constant + step * change(())
    else:
        entries = np.empty(constant.ufl_shape, dtype=object)
        for index in np.ndindex(constant.ufl_shape):
            entries[index] = constant[index] + step * change(index)
        moved = ufl.as_tensor(entries.tolist())
    slope = ufl.diff(ufl.replace(f, {constant: moved}), step)
    return map_integrand_dags(_WithoutVariables(), apply_derivatives(apply_algebra_lowering(slope)))


class _WithoutVariables(MultiFunction):
    """As ``ufl.algorithms.strip_variables``, which fails where Irksome came before Firedrake."""

    expr = MultiFunction.reuse_if_untouched

    def variable(self, o: Any, expression: Any, label: Any) -> Any:
        return expression
