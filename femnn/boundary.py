"""Private copies of Dirichlet boundary conditions."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl
from pyadjoint.overloaded_type import OverloadedType

from femnn.mirrors import copy_values


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

    @property
    def on_tape(self) -> bool:
        """Whether the tape follows the values: a Function or Constant was given, and stayed."""
        given = self.source._original_arg
        if isinstance(given, fd.Function) and given.ufl_element().family() != "Real":
            return self.source.function_arg is given
        return isinstance(given, OverloadedType) and hasattr(self.source, "_function_arg_update")

    def snapshot(self) -> fd.Function | None:
        """The present values, where the tape does not follow them."""
        if self.on_tape:
            return None
        self._set(self.source.function_arg)
        return self.value.copy(deepcopy=True)

    def load(self, node: Any, snapshot: fd.Function | None) -> None:
        """Take the tape's value, or that of a snapshot, or the user's present one."""
        if snapshot is not None:
            self._set(snapshot)
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
