"""Weighted sums of Cofunctions, as maps from the Cofunctions and from what is in the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations

from femnn.fields.copies import Mirrors, dependencies_of
from femnn.fields.cotangents import Cotangent, zero_cotangent
from femnn.fields.derivatives import Direction, along, constant_gradient, entry_derivative


@dataclass(frozen=True)
class Term:
    """A Cofunction and its weight.

    Attributes
    ----------
    weight
        A number, or a scalar expression of Constants and Functions on Real spaces.
    cofunction
        The Cofunction.
    """

    weight: Any
    cofunction: fd.Cofunction


def split_terms(residual: Any) -> tuple[ufl.Form, list[Term]]:
    """A residual's form, and the Cofunctions that stand beside it with their weights.

    Parameters
    ----------
    residual
        A form, or a form plus assembled Cofunctions.

    Returns
    -------
    form : ufl.Form
        Empty where there is none.
    terms : list of Term
        The rest.

    Raises
    ------
    NotImplementedError
        If something stands there that is not assembled.
    """
    if isinstance(residual, ufl.FormSum):
        parts = list(zip(residual.components(), residual.weights(), strict=True))
    else:
        parts = [(residual, 1)] if isinstance(residual, ufl.form.BaseForm) else []
    form, terms = ufl.Form([]), []
    for component, weight in parts:
        if isinstance(component, ufl.ZeroBaseForm):
            continue
        if isinstance(component, ufl.Form):
            form = component if weight == 1 else weight * component  # UFL has added all forms
        elif isinstance(component, fd.Cofunction):
            terms.append(Term(weight, component))
        else:
            raise NotImplementedError(
                f"a {type(component).__name__} stands in the residual: {component}. Beside forms "
                "only Cofunctions can; write assemble(...) of it, which the tape records."
            )
    return form, terms


class WeightedSum:
    """A weighted sum of Cofunctions, in private copies.

    Parameters
    ----------
    terms
        The Cofunctions and their weights.
    space
        The dual space that they are on.

    Attributes
    ----------
    value : firedrake.Cofunction
        The sum of what is loaded.
    copies : dict
        The Cofunctions, and the Constants and Functions on Real spaces in the weights, each with
        its private copy.
    """

    @no_annotations
    def __init__(self, terms: Sequence[Term], space: Any):
        weights = [ufl.as_ufl(term.weight) for term in terms]
        self._numbers = {d: _number_copy(d) for w in weights for d in dependencies_of(w)}
        self._directions = {s: Direction.like(copy) for s, copy in self._numbers.items()}
        self._weights = [ufl.replace(weight, self._numbers) for weight in weights]
        self._sources = [term.cofunction for term in terms]
        self._mirrors = Mirrors(dict.fromkeys(self._sources))
        self.copies = {**self._mirrors.copies, **self._numbers}
        self.value, self._change = fd.Cofunction(space), fd.Cofunction(space)

    @no_annotations
    def load(self, values: Mapping[Any, Any]) -> None:
        """Take values of the dependencies, their own where none are given.  Collective."""
        self._mirrors.load(values)
        for source, copy in self._numbers.items():
            copy.assign(_values(values.get(source, source)).reshape(copy.ufl_shape))
        self.value.dat.zero()
        for weight, source in zip(self._weights, self._sources, strict=True):
            _add(self.value, _number(weight), self._mirrors.copies[source])

    @no_annotations
    def change(self, dots: Mapping[Any, Any]) -> fd.Cofunction | None:
        """The sum's change where dependencies change; ``None`` where there is none.

        It is overwritten by the next one.
        """
        if all(dots.get(source) is None for source in self.copies):
            return None
        slopes = self._along(dots)
        self._change.dat.zero()
        for weight, slope, source in zip(self._weights, slopes, self._sources, strict=True):
            _add(self._change, _number(slope), self._mirrors.copies[source])
            if dots.get(source) is not None:
                _add(self._change, _number(weight), dots[source])
        return self._change

    @no_annotations
    def gradient(self, dependency: Any, state: fd.Function) -> Any:
        """The derivative of minus the sum's product with a Function, by a dependency.  Collective.

        Parameters
        ----------
        dependency
            One of those that have :attr:`copies`.
        state
            The Function, the adjoint state of a residual with the sum in it.

        Returns
        -------
        firedrake.Function, Cotangent or numpy.ndarray
            A Function for a Cofunction, a Cotangent for a Function, an array for a Constant.
        """
        if dependency in self._numbers:
            return self._by_number(dependency, [(self._weights, self._products(state))])
        return self._by_cofunction(dependency, [(self._weights, state)])

    @no_annotations
    def gradient_change(
        self, dependency: Any, state: fd.Function, change: fd.Function, dots: Mapping[Any, Any]
    ) -> Any:
        """The change of :meth:`gradient` where the Function changes and dependencies move."""
        slopes = self._along(dots)
        if dependency in self._numbers:
            moved = [*self._products(change), *self._products(state, dots)]
            pairs = [([*self._weights, *self._weights], moved), (slopes, self._products(state))]
            return self._by_number(dependency, pairs)
        return self._by_cofunction(dependency, [(self._weights, change), (slopes, state)])

    def _along(self, dots: Mapping[Any, Any]) -> list[Any]:
        """The weights' changes."""
        moving = []
        for source, direction in self._directions.items():
            if dots.get(source) is not None:
                direction.assign(_values(dots[source]))
                moving.append(direction)
        return [along(weight, moving) for weight in self._weights]

    def _products(self, state: fd.Function, values: Mapping[Any, Any] | None = None) -> list[float]:
        """Each Cofunction's product with a Function; of changes, where these are given."""
        copies = self._mirrors.copies if values is None else values
        given = (copies.get(source) for source in self._sources)
        return [0.0 if c is None else _product(c, state) for c in given]

    def _by_cofunction(
        self, cofunction: fd.Cofunction, pairs: Sequence[tuple[list[Any], fd.Function]]
    ) -> fd.Function:
        total = fd.Function(cofunction.function_space().dual())
        for weights, state in pairs:
            for weight, source in zip(weights, self._sources, strict=True):
                if source is cofunction:
                    _add(total, -_number(weight), state)
        return total

    def _by_number(
        self, source: Any, pairs: Sequence[tuple[list[Any], list[float]]]
    ) -> np.ndarray | Cotangent:
        copy = self._numbers[source]

        def entry(index: tuple[int, ...]) -> float:
            terms = (term for pair in pairs for term in zip(*pair, strict=True))
            return -sum(_number(entry_derivative(w, copy, index)) * p for w, p in terms)

        gradient = constant_gradient(copy, entry)
        if isinstance(source, fd.Constant):
            return gradient
        cotangent = zero_cotangent(source.function_space())
        cotangent.dat.data_wo[...] = gradient
        return cotangent


def _number_copy(source: Any) -> fd.Constant:
    """A private Constant for a Constant or a Function on a Real space."""
    return fd.Constant(_values(source).reshape(source.ufl_shape))


def _values(value: Any) -> np.ndarray:
    return np.asarray(value.dat.data_ro if isinstance(value, (fd.Constant, fd.Function)) else value)


def _number(expression: Any) -> float:
    """The value of a scalar expression of Constants."""
    return float(expression(()))


def _product(cofunction: fd.Cofunction, function: fd.Function) -> float:
    with cofunction.dat.vec_ro as a, function.dat.vec_ro as b:
        return a.dot(b)


def _add(target: Any, factor: float, part: Any) -> None:
    """Add ``factor * part`` to ``target``, both of one size."""
    if factor != 0.0:
        with target.dat.vec as total, part.dat.vec_ro as vector:
            total.axpy(factor, vector)
