"""Private copies of Dirichlet boundary conditions."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.overloaded_type import OverloadedType

from femnn.fields.copies import copy_values


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
    """

    def __init__(self, source: fd.DirichletBC):
        self.source = source
        space = source.function_space()
        self.value = fd.Function(space)
        self.bc = source.reconstruct(g=self.value)
        self._last: np.ndarray | None = None

    @property
    def on_tape(self) -> bool:
        """Whether the tape follows the values: a Function or Constant was given, and stayed."""
        given = self.source._original_arg
        if isinstance(given, fd.Function) and given.ufl_element().family() != "Real":
            return self.source.function_arg is given
        return isinstance(given, OverloadedType) and hasattr(self.source, "_function_arg_update")

    def snapshot(self) -> np.ndarray | None:
        """The present values at the boundary's nodes, where the tape does not follow them.

        A tape holds one for each solve: those that have not changed are the same array.
        """
        if self.on_tape:
            return None
        self._set(self.source.function_arg)
        values = self.value.dat.data_ro_with_halos[self.bc.nodes]
        if self._last is None or not np.array_equal(self._last, values, equal_nan=True):
            self._last = values.copy()
        return self._last

    def load(self, node: Any, snapshot: np.ndarray | None) -> None:
        """Take the tape's value, or that of a snapshot, or the user's present one."""
        if snapshot is not None:
            self.value.dat.data_wo_with_halos[self.bc.nodes] = snapshot
        elif node is not None and node.checkpoint is not None:
            self._set(node.checkpoint.saved_output)
        else:
            self._set(self.source.function_arg)

    def _set(self, value: Any) -> None:
        if isinstance(value, (ufl.constantvalue.Zero, ufl.constantvalue.ScalarValue)):
            self.value.assign(float(value))
        elif isinstance(value, fd.Function) and value.ufl_element() != self.value.ufl_element():
            self.value.interpolate(value)
        elif isinstance(value, fd.Function):
            copy_values(value, self.value)
        else:
            self.value.assign(value)
