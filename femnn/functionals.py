"""Assembling forms with neural coefficients; functionals keep what they have compiled."""

from __future__ import annotations

import weakref
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.assemble import get_assembler
from pyadjoint import AdjFloat, Block
from pyadjoint.tape import annotate_tape, get_working_tape, stop_annotating

from femnn.coefficient import neural_coefficients
from femnn.cotangents import zero_cotangent
from femnn.forms import constant_derivative, with_degrees
from femnn.mirrors import Mirrors, dependencies_of


def assemble(form: Any, *args: Any, **kwargs: Any) -> Any:
    """Firedrake's ``assemble`` for forms with neural coefficients.  Collective.

    Evaluates the coefficients where their operands or weights have changed, and gives the
    measures their quadrature degree.  Functionals are recorded on the tape with assemblers
    that are kept, which makes time loops and training faster than with Firedrake's own, also
    for forms without a network; all else goes to Firedrake.  Derivatives with respect to the
    mesh are Firedrake's: use its ``assemble`` for them.

    Parameters
    ----------
    form
        A form; arguments and keywords as for :func:`firedrake.assemble`.

    Returns
    -------
    float, Cofunction, Function or Matrix
        As Firedrake's.

    Raises
    ------
    ValueError
        If a measure's degree differs from a coefficient's.
    """
    if isinstance(form, ufl.Form):
        form = with_degrees(form)
        for coefficient in neural_coefficients(form):
            coefficient.update()
        if _is_plain_functional(form) and not args and not set(kwargs) - {"annotate"}:
            if annotate_tape(kwargs):
                return _recorded(form)
            kwargs["annotate"] = False
    return fd.assemble(form, *args, **kwargs)


def _is_plain_functional(form: ufl.Form) -> bool:
    plain = all(isinstance(c, fd.Function) for c in form.coefficients())
    return plain and not form.arguments() and not form.empty()


def _recorded(form: ufl.Form) -> AdjFloat:
    kept = _kept.get(form)
    if kept is None:
        kept = KeptFunctional(form)
        _kept[form] = kept
    block = FunctionalBlock(kept)
    with stop_annotating():
        value = AdjFloat(kept.value({}))
    get_working_tape().add_block(block)
    block.add_output(value.block_variable)
    return value


class KeptFunctional:
    """A functional in private copies, with assemblers of its value and derivatives.

    Parameters
    ----------
    form
        A form without arguments.
    """

    def __init__(self, form: ufl.Form):
        self.dependencies = dependencies_of(form)
        self.mirrors = Mirrors(self.dependencies)
        self.form = self.mirrors(form)
        with stop_annotating():
            self._assemble = get_assembler(self.form).assemble
        self._derivatives: dict[Any, Any] = {}

    def value(self, values: dict[Any, Any]) -> float:
        """The functional's value; the sources' own values where none are given.  Collective."""
        self.mirrors.load(values)
        return float(self._assemble())

    def derivative(self, source: Any, values: dict[Any, Any]) -> Any:
        """The derivative with respect to one source: Cofunction, or array for a Constant."""
        self.mirrors.load(values)
        copy = self.mirrors.copies[source]
        if isinstance(copy, fd.Constant):
            gradient = np.zeros(copy.ufl_shape)
            for index in np.ndindex(copy.ufl_shape):
                gradient[index] = self._derivative((source, index), copy, index)
            return gradient
        cotangent = zero_cotangent(copy.function_space())
        self._derivative(source, copy, None, tensor=cotangent)
        return cotangent

    def _derivative(self, key: Any, copy: Any, index: tuple[int, ...] | None, **tensor: Any) -> Any:
        if key not in self._derivatives:
            if index is None:
                form = fd.derivative(self.form, copy)
            else:
                form = constant_derivative(self.form, copy, index, [])
            form = ufl.algorithms.expand_derivatives(form)
            empty = not isinstance(form, ufl.Form) or form.empty()
            self._derivatives[key] = None if empty else get_assembler(form).assemble
        assembler = self._derivatives[key]
        return 0.0 if assembler is None else assembler(**tensor)


# Kept as long as a block on a tape uses it.
_kept: weakref.WeakValueDictionary[ufl.Form, KeptFunctional] = weakref.WeakValueDictionary()


class FunctionalBlock(Block):
    """The value of a functional."""

    def __init__(self, kept: KeptFunctional, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.kept = kept
        for dependency in kept.dependencies:
            self.add_dependency(dependency)

    def __str__(self) -> str:
        return "assemble(functional)"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        """Assemble the value again."""
        return AdjFloat(self.kept.value(self._values(inputs)))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        """The derivative times the incoming number."""
        derivative = self.kept.derivative(block_variable.output, self._values(inputs))
        factor = float(adj_inputs[0])
        if isinstance(derivative, np.ndarray):
            return factor * derivative
        with derivative.dat.vec as v:
            v.scale(factor)
        return derivative

    def _values(self, inputs: list) -> dict[Any, Any]:
        return dict(zip(self.kept.dependencies, inputs, strict=True))
