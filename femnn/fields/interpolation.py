"""Expressions interpolated into a space, as maps from the Functions and Constants in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations

from femnn.fields.copies import (
    CoordinateState,
    Mirrors,
    copy_values,
    dependencies_of,
    meshes_of,
    version,
)
from femnn.fields.cotangents import Cotangent, zero_cotangent
from femnn.fields.derivatives import (
    Direction,
    along,
    constant_gradient,
    derivative,
    entry_derivative,
    set_directions,
)
from femnn.fields.matrices import times_columns
from femnn.fields.stamp import Stamp, Validity
from femnn.parallel import sum_over_ranks

NUMBERS = (ufl.constantvalue.Zero, ufl.constantvalue.ScalarValue)
# How exactly the transposed interpolation is that of the values.
ROUNDING = 1e-9

Term: TypeAlias = tuple[Any, Any, fd.Cofunction]  # a key, an expression, a cotangent of its values


class Interpolated:
    """An expression's values in a space, and what carries changes forwards and cotangents back.

    All is done in private copies of what the expression is made of.  Interpolations and their
    transposes are made once and kept.

    Parameters
    ----------
    expression
        A UFL expression, of the shape of the space's values or a number.
    space
        A function space that is not mixed; of a part of a mixed space or a component its own
        degrees of freedom count.

    Attributes
    ----------
    dependencies : list
        The Functions and Constants in the expression.
    space : FunctionSpace
        The space, for itself.
    meshes : list
        Its mesh, and those of the expression.
    value : firedrake.Function
        The values that are loaded, on that space.
    """

    @no_annotations
    def __init__(self, expression: Any, space: Any):
        self.expression = expression
        self.space = space.collapse()
        self.dependencies = dependencies_of(expression)
        self.mirrors = Mirrors(self.dependencies)
        self._private = self.mirrors(expression)
        self._directions = {s: Direction.like(c) for s, c in self.mirrors.copies.items()}
        self._kept: dict[Any, Any] = {}
        self.meshes = list(dict.fromkeys([space.mesh().unique(), *meshes_of(expression)]))
        self._moved = [CoordinateState(mesh) for mesh in self.meshes]
        self._filled = Validity(self.comm)
        self._is_field = isinstance(expression, fd.Function) and _same(expression, self.space)
        self.value = self._private if self._is_field else fd.Function(self.space)

    @property
    def comm(self) -> Any:
        """The ranks that share the values."""
        return self.space.mesh().comm

    @no_annotations
    def load(self, values: Mapping[Any, Any]) -> fd.Function:
        """The values, also kept as :attr:`value`.  Collective.

        Parameters
        ----------
        values
            Dependency to value; the dependency's own where there is none.
        """
        self.mirrors.load(values)
        if not self._is_field:
            versions = [version(copy) for copy in self.mirrors.copies.values()]
            present = Stamp((*versions, *(moved() for moved in self._moved)))
            if not self._filled.holds(present):
                self._fill()
                self._filled.note(present)
        return self.value

    @no_annotations
    def direction(self, dots: Mapping[Any, Any]) -> list[Direction]:
        """Take changes of dependencies; those that move."""
        return set_directions(self._directions, dots)

    @no_annotations
    def change(self, moving: Sequence[Direction]) -> fd.Function | None:
        """The values' change along what moves; ``None`` where there is none.  Collective.

        It is overwritten by the next change along the same.
        """
        if self._is_field and moving:
            return moving[0].change
        evaluate = self._values_of(_key(moving), lambda: along(self._private, moving))
        return None if evaluate is None else evaluate()

    @no_annotations
    def change_columns(self, dependency: Any, columns: np.ndarray) -> np.ndarray | None:
        """The values' changes along many changes of a Function.  Collective.

        Parameters
        ----------
        dependency
            One of :attr:`dependencies`, a Function.
        columns
            The rank's rows of its changes, shape ``(n_owned, n)``.

        Returns
        -------
        numpy.ndarray or None
            Shape ``(n_owned_values, n)``; ``None`` where they do not change.
        """
        if self._is_field:
            return columns
        copy = self.mirrors.copies[dependency]
        trial = fd.TrialFunction(copy.function_space())
        change = derivative(self._private, copy, trial)
        if _is_zero(change):
            return None
        return times_columns(fd.assemble(fd.interpolate(change, self.space)).petscmat, columns)

    def cotangent(self, dependency: Any, cotangent: fd.Cofunction) -> Any:
        """A cotangent of the values carried to a dependency.  Collective.

        Parameters
        ----------
        dependency
            One of :attr:`dependencies`.
        cotangent
            On the dual of :attr:`space`.

        Returns
        -------
        Cotangent or numpy.ndarray
            An array, the same on all ranks, for a Constant.

        Raises
        ------
        NotImplementedError
            If the change of the values is not the same in all cells that share a node.
        """
        return self._carry(dependency, [("of", self._private, cotangent)])

    def cotangent_change(
        self,
        dependency: Any,
        cotangent: fd.Cofunction,
        change: fd.Cofunction,
        moving: Sequence[Direction],
    ) -> Any:
        """The change of :meth:`cotangent` where the cotangent changes and dependencies move."""
        terms: list[tuple[Any, Any, Any]] = [("of", self._private, change)]
        if moving and not self._is_field:
            terms.append((_key(moving), along(self._private, moving), cotangent))
        return self._carry(dependency, terms)

    def _fill(self) -> None:
        if isinstance(self._private, NUMBERS):
            self.value.assign(float(self._private))
            return
        evaluate = self._values_of("value", lambda: self._private)
        if evaluate is None:
            self.value.assign(0.0)
        else:
            copy_values(evaluate(), self.value)

    @no_annotations
    def _carry(self, dependency: Any, terms: Sequence[Term]) -> Any:
        copy = self.mirrors.copies[dependency]
        if isinstance(copy, fd.Constant):
            local = constant_gradient(
                copy, lambda index: sum(self._product(copy, index, *term) for term in terms)
            )
            return sum_over_ranks(self.comm, local)
        total = zero_cotangent(copy.function_space())
        for term in terms:
            self._add_transposed(total, copy, *term)
        return total

    def _product(
        self,
        constant: fd.Constant,
        index: tuple[int, ...],
        key: Any,
        expression: Any,
        cotangent: fd.Cofunction,
    ) -> float:
        """The rank's product of a cotangent with the change by one entry of a Constant."""
        evaluate = self._values_of(
            (key, constant, index), lambda: entry_derivative(expression, constant, index)
        )
        return 0.0 if evaluate is None else _product_on_rank(cotangent, evaluate())

    def _add_transposed(
        self,
        total: Cotangent,
        copy: fd.Function,
        key: Any,
        expression: Any,
        cotangent: fd.Cofunction,
    ) -> None:
        """Add what a cotangent of an expression's values is for a Function in it."""
        if self._is_field:
            total.dat.data_wo[...] += cotangent.dat.data_ro
            return
        kept_as = ("transposed", key, copy)
        if kept_as not in self._kept:
            test = fd.TestFunction(copy.function_space())
            change = derivative(expression, copy, test)
            self._kept[kept_as] = None if _is_zero(change) else self._transposed(change)
        carry = self._kept[kept_as]
        if carry is not None:
            carried = carry(cotangent)
            self._check(carried, copy, key, expression, cotangent)
            total += carried

    def _transposed(self, change: Any) -> Callable[[fd.Cofunction], fd.Cofunction]:
        (test,) = ufl.algorithms.extract_arguments(change)
        given = fd.Cofunction(self.space.dual())
        result = fd.Cofunction(test.function_space().dual())
        interpolator = fd.get_interpolator(fd.interpolate(change, given))
        evaluate = interpolator._get_callable(tensor=result)

        def carry(cotangent: fd.Cofunction) -> fd.Cofunction:
            given.dat.data_wo[...] = cotangent.dat.data_ro
            result.dat.zero()
            evaluate()
            return result

        return carry

    def _check(
        self,
        carried: fd.Cofunction,
        copy: fd.Function,
        key: Any,
        expression: Any,
        cotangent: fd.Cofunction,
    ) -> None:
        """Compare the transposed interpolation with the interpolation, in some direction.

        Where cells that share a node see several values there, the interpolation takes one of
        them, its transpose a mean.
        """
        along_probe = ("probe", key, copy)
        if along_probe not in self._kept:
            self._kept[along_probe] = _random(copy.function_space())
        probe = self._kept[along_probe]
        evaluate = self._values_of(
            (along_probe, "change"), lambda: derivative(expression, copy, probe)
        )
        change = 0.0 if evaluate is None else _product_on_rank(cotangent, evaluate())
        size = 0.0 if evaluate is None else _product_on_rank(cotangent, evaluate(), np.abs)
        forwards, scale = sum_over_ranks(self.comm, np.array([change, size]))
        with carried.dat.vec_ro as a, probe.dat.vec_ro as b:
            backwards = a.dot(b)
        if abs(forwards - backwards) > ROUNDING * scale:
            raise NotImplementedError(
                f"the expression {self.expression} differs between the cells that share a node of "
                f"{self.space.ufl_element()}, so its values there have no derivative that is worth "
                "the name: project what jumps to a continuous space first (project(operand, V)), "
                "and write the expression with that."
            )

    def _values_of(self, key: Any, make: Callable[[], Any]) -> Callable[[], fd.Function] | None:
        """What evaluates an expression in the space; ``None`` where it is zero."""
        if key not in self._kept:
            expression = make()
            self._kept[key] = None if _is_zero(expression) else self._evaluation(expression)
        return self._kept[key]

    def _evaluation(self, expression: Any) -> Callable[[], fd.Function]:
        target = fd.Function(self.space)
        interpolator = fd.get_interpolator(fd.interpolate(expression, self.space))
        return interpolator._get_callable(tensor=target)


def _same(field: fd.Function, space: Any) -> bool:
    own = field.function_space()
    return own.mesh().unique() is space.mesh().unique() and own.collapse() == space


def _key(moving: Sequence[Direction]) -> tuple:
    return ("along", *(id(direction) for direction in moving))


def _is_zero(expression: Any) -> bool:
    return isinstance(expression, ufl.constantvalue.Zero)


def _product_on_rank(
    cotangent: fd.Cofunction, values: fd.Function, of: Callable = lambda products: products
) -> float:
    """The rank's part of a product; values count only where the cotangent is not zero."""
    weights, numbers = cotangent.dat.data_ro, values.dat.data_ro
    at = weights != 0.0
    return float(np.sum(of(weights[at] * numbers[at])))


def _random(space: Any) -> fd.Function:
    probe = fd.Function(space)
    rng = np.random.default_rng(0)
    for part in probe.subfunctions:
        part.dat.data_wo[...] = rng.standard_normal(part.dat.data_ro.shape)
    return probe
