"""Functions whose values are computed, and not set by the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any, NoReturn

import firedrake as fd
from firedrake.functionspaceimpl import WithGeometry
from pyadjoint import Block
from pyadjoint.tape import get_working_tape
from pyop2 import op2
from tsfc.fem import translate, translate_coefficient

from femnn.tape.meshes import Coordinates, snapshots_of
from femnn.tape.nodes import present_nodes


class _WatchedDat(op2.Dat):
    """Data that kernels can read only while they are up to date.

    Firedrake's solvers and assemblers hold a coefficient's data, and would go on with values that
    were right when they were made.
    """

    check: Callable[[], Callable[[], None] | None] | None = None

    @property
    def _kernel_args_(self) -> tuple[Any, ...]:
        check = None if self.check is None else self.check()
        if check is not None:
            check()
        return (self._data.ctypes.data,)


class ComputedFunction(fd.Function):
    """A Function whose values can be read where they are up to date, and never be set.

    Where it is used on the tape, the tape has a block of its computation, one for the same nodes.

    Parameters
    ----------
    space
        The function space.
    name
        The name.
    block
        Makes the tape's block of the present values.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Pass over Firedrake's, which looks for a dual space in the first argument.

        Of a space alone an ordinary Function is made: Firedrake's tape asks for one on the same
        space by ``type(f)(space)``.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], WithGeometry):
            return fd.Function(args[0])
        return object.__new__(cls)

    def __init__(self, space: Any, name: str, block: Callable[[], Block]):
        self._recorded: tuple[int, Block, list[Any], Coordinates] | None = None
        data = _WatchedDat(space.dof_dset, name=name)
        super().__init__(
            space, val=data, name=name, block_class=block, _ad_floating_active=True, _ad_args=[]
        )
        data.check = weakref.WeakMethod(self._check_present)

    @property
    def sources(self) -> list[Any]:
        """What the values are computed from, in the tape's sense."""
        raise NotImplementedError

    def depends_on(self, u: fd.Function) -> bool:
        """Whether the values are computed from a Function, as one that stands in an operand.

        Parameters
        ----------
        u
            The Function.

        Returns
        -------
        bool
            The same on every rank.
        """
        return u in self.sources

    def _check_present(self) -> None:
        """Raise a ``RuntimeError`` where the values are out of date."""
        raise NotImplementedError

    @property
    def values_between(self) -> bool:
        """Whether there are values between the points, as those of an interpolant."""
        raise NotImplementedError

    @property
    def dat(self) -> Any:
        """The values' data; an error where they are out of date."""
        self._check_present()
        return self.topological.dat

    def copy(self, deepcopy: bool = False) -> fd.Function:
        """The present values as an ordinary Function on the same space."""
        self._check_present()
        if not deepcopy:
            return fd.Function(self.function_space(), val=self.topological)
        values = fd.Function(self.function_space())
        self.topological.dat.copy(values.dat)
        return values

    @cached_property
    def _plain(self) -> fd.Function:
        """An ordinary Function with the same data."""
        return fd.Function(self.function_space(), val=self.topological)

    @property
    def subfunctions(self) -> tuple[fd.Function, ...]:
        """The values as ordinary Functions that share this one's data."""
        return self._plain.subfunctions

    @property
    def _components(self) -> tuple[fd.Function, ...]:
        return self._plain._components

    def sub(self, i: int) -> NoReturn:
        """No component as a Function: in a form that would keep the values it has now.

        Raises
        ------
        TypeError
            Always.
        """
        name = self.name()
        raise TypeError(
            f"{name}.sub({i}): a component is no Function of its own. Write {name}[{i}] in a form, "
            f"and {name}.copy(deepcopy=True).sub({i}) for its present values."
        )

    def at(self, *args: Any, **kwargs: Any) -> Any:
        """Values at points of the mesh, as :meth:`firedrake.Function.at`; only of nodal ones.

        Raises
        ------
        NotImplementedError
            If the values are at quadrature points, between which there are none.
        """
        self._check_between("at")
        return super().at(*args, **kwargs)

    def evaluate(self, coord: Any, mapping: Any, component: Any, index_values: Any) -> Any:
        """The value at a point of the mesh, as in ``f(x)``; only of nodal ones.

        Raises
        ------
        NotImplementedError
            If the values are at quadrature points, between which there are none.
        """
        self._check_between("evaluate")
        return super().evaluate(coord, mapping, component, index_values)

    def _check_between(self, method: str) -> None:
        if not self.values_between:
            raise NotImplementedError(f"{self.name()}.{method}(): {self.why_not_between}")

    @property
    def why_not_between(self) -> str:
        """What to say and to advise where values between the points are asked for."""
        return (
            f"the values of {self.name()} are at quadrature points, and between these there are "
            "none. Use NeuralCoefficient(net, *operands, space=V), which has its values at V's "
            f"nodes, or project: project({self.name()}.update(), V)."
        )

    def assign(self, *args: Any, **kwargs: Any) -> NoReturn:
        """No values are taken.

        Raises
        ------
        TypeError
            Always.
        """
        name = self.name()
        raise TypeError(
            f"{name} got values to take, by assign, interpolate, project, zero or an operator such "
            f"as +=: its values are those of its network. Change them by {name}.weights.assign(...)"
            f" or by its operands, or copy them first: {name}.copy(deepcopy=True)."
        )

    interpolate = project = zero = assign
    __iadd__ = __isub__ = __imul__ = __itruediv__ = assign

    def _ad_will_add_as_dependency(self) -> None:
        """Record the computation, unless the tape has it already."""
        self._check_present()
        if not self._is_recorded(present_nodes(self.sources)):
            super()._ad_will_add_as_dependency()
            place = len(get_working_tape().get_blocks()) - 1
            present = [s.block_variable for s in self.sources]
            where = snapshots_of(self.function_space().mesh()).present()
            self._recorded = (place, self.block, present, where)

    def _is_recorded(self, present: list[Any]) -> bool:
        """Whether the tape holds the computation from the same nodes, there.  Collective."""
        if self._recorded is None:
            return False
        place, block, nodes, where = self._recorded
        blocks = get_working_tape().get_blocks()
        held = place < len(blocks) and blocks[place] is block and nodes == present
        return held and not snapshots_of(self.function_space().mesh()).differ(where)


@translate.register(ComputedFunction)
def _translated(values: ComputedFunction, *at: Any) -> Any:
    """What tsfc writes for values in what is interpolated: in forms UFL's own symbols stand there.

    A ``ValueError`` like tsfc's own: for others Firedrake projects a condition's value.
    """
    try:
        return translate_coefficient(values, *at)
    except (NotImplementedError, ValueError) as error:
        if values.values_between:
            raise
        raise ValueError(f"interpolate (or a file, a plot): {values.why_not_between}") from error
