"""Functionals on the tape, which keep what they have compiled."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint import AdjFloat
from pyadjoint.tape import get_working_tape, no_annotations, stop_annotating

from femnn.fields.copies import Mirrors, dependencies_of, is_real, meshes_of
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.derivatives import (
    Direction,
    along,
    constant_gradient,
    derivative,
    entry_derivative,
    set_directions,
)
from femnn.fields.kept import KeptForms
from femnn.fields.linear import linear_in
from femnn.fields.matrices import times_columns
from femnn.tape.meshes import OnMeshes
from femnn.tape.nodes import add_dependencies


def value_and_record(form: ufl.Form) -> AdjFloat:
    """Evaluate a functional of Functions and Constants, and record that.  Collective."""
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
        self._directions = {s: Direction.like(c) for s, c in self.mirrors.copies.items()}
        self._assembler, self._matrices = KeptForms(), KeptForms(mat_type="aij")
        self._linear = linear_in(self.form, self.mirrors.copies.values())
        self._product = next(iter(self._linear.values()), None)

    def value(self, values: dict[Any, Any]) -> float:
        """The functional's value; the sources' own values where none are given.  Collective."""
        return self.change({}, values)

    def change(self, dots: dict[Any, Any], values: dict[Any, Any]) -> float:
        """The functional's change in a direction, its value where there is none.  Collective."""
        self.mirrors.load(values)
        moving = set_directions(self._directions, dots)
        if self._product is not None and not moving:
            return self._product.value()
        return self._number("value", moving, lambda: self.form)

    def derivative(self, source: Any, dots: dict[Any, Any], values: dict[Any, Any]) -> Any:
        """The derivative for one source, or its change in a direction.  Collective.

        Returns
        -------
        Cofunction or numpy.ndarray
            An array for a Constant.
        """
        self.mirrors.load(values)
        moving = set_directions(self._directions, dots)
        copy = self.mirrors.copies[source]
        if isinstance(copy, fd.Constant):
            return constant_gradient(
                copy,
                lambda index: self._number(
                    (source, index), moving, partial(entry_derivative, self.form, copy, index)
                ),
            )
        if copy in self._linear and not moving:
            return self._linear[copy].vector().copy(deepcopy=True)
        assemble = self._kept(source, moving, partial(fd.derivative, self.form, copy))
        return zero_cotangent(copy.function_space()) if assemble is None else assemble()

    def second_columns(
        self, moving: Mapping[Any, np.ndarray], values: dict[Any, Any]
    ) -> dict[Any, np.ndarray] | None:
        """The second derivatives times many directions, by their matrices.  Collective.

        Parameters
        ----------
        moving
            For each source that changes the rank's rows of its changes, shape ``(n_owned, n)``.
        values
            The sources' values.

        Returns
        -------
        dict of numpy.ndarray, or None
            For each of these the rank's rows of the products; ``None`` where one is no field.
        """
        copies = {source: self.mirrors.copies.get(source) for source in moving}
        if not all(_has_matrix(copy) for copy in copies.values()):
            return None
        self.mirrors.load(values)
        found = {source: np.zeros_like(columns) for source, columns in moving.items()}
        for pair in product(moving, repeat=2):
            a, b = (copies[source] for source in pair)
            assemble = self._matrices(pair, partial(_second_derivative, self.form, a, b))
            if assemble is not None:
                found[pair[0]] += times_columns(assemble().petscmat, moving[pair[1]])
        return found

    def _number(self, key: Any, moving: list[Direction], make_form: Callable) -> float:
        assemble = self._kept(key, moving, make_form)
        return 0.0 if assemble is None else float(assemble())

    def _kept(self, key: Any, moving: list[Direction], make_form: Callable) -> Callable | None:
        """The assembler of a form, or of its change in a direction."""

        def form() -> ufl.Form:
            return along(make_form(), moving) if moving else make_form()

        return self._assembler((key, *map(id, moving)), form)


def _has_matrix(copy: Any) -> bool:
    """Whether a second derivative for it is a sparse matrix."""
    if not isinstance(copy, fd.Function):
        return False
    space = copy.function_space()
    return all(
        not is_real(part) and copy is not part.mesh().coordinates for part in space.subspaces
    )


def _second_derivative(form: ufl.Form, a: fd.Function, b: fd.Function) -> ufl.Form:
    """With a's test functions and b's trial functions."""
    return derivative(fd.derivative(form, a), b, fd.TrialFunction(b.function_space()))


# Kept as long as a block on a tape uses it.
_kept: weakref.WeakValueDictionary[ufl.Form, KeptFunctional] = weakref.WeakValueDictionary()


class KeptBlock(OnMeshes):
    """What was assembled from a form that is kept, with values of its Functions and Constants.

    Subclasses carry an adjoint value to one of these in ``_carried``.

    Parameters
    ----------
    kept
        The form, with its ``dependencies``.
    meshes
        The form's.
    """

    def __init__(self, kept: Any, meshes: Iterable[Any], ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.kept = kept
        add_dependencies(self, kept.dependencies)
        self.stand_on(meshes)

    @no_annotations
    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return self._carried(adj_inputs[0], block_variable.output, {}, inputs)

    @no_annotations
    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        source, dots = block_variable.output, self._dots()
        result = self._carried(hessian_inputs[0], source, {}, inputs)
        if dots:
            if adj_inputs[0] is None:
                raise RuntimeError(
                    "hessian() found no derivative of its functional on the tape: none was taken, "
                    "or one of another functional since. Call derivative() of the same reduced "
                    "functional first."
                )
            result += self._carried(adj_inputs[0], source, dots, inputs)
        return result

    def _carried(self, adjoint: Any, source: Any, dots: dict[Any, Any], inputs: list) -> Any:
        """The derivative for one source, or its change in a direction.  Collective."""
        raise NotImplementedError

    def _dots(self) -> dict[Any, Any]:
        known = ((bv.output, bv.tlm_value) for bv in self.get_dependencies())
        return {source: dot for source, dot in known if dot is not None}

    def _values(self, inputs: list) -> dict[Any, Any]:
        return dict(zip(self.kept.dependencies, inputs, strict=False))


class FunctionalBlock(KeptBlock):
    """The value of a functional."""

    def __init__(self, kept: KeptFunctional, ad_block_tag: str | None = None):
        super().__init__(kept, meshes_of(kept.form), ad_block_tag)

    def __str__(self) -> str:
        return "assemble(functional)"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> AdjFloat:
        return AdjFloat(self.kept.value(self._values(inputs)))

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> AdjFloat:
        return AdjFloat(self.kept.change(self._dots(), self._values(inputs)))

    @no_annotations
    def hessian_columns(self, moving: dict[Any, np.ndarray], factor: float) -> dict | None:
        """The second derivatives times changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The nodes with their changes, shape ``(n_owned, n_directions)``.
        factor
            The functional's derivative for this one.
        """
        with self._recorded_meshes():
            values = self._values([bv.saved_output for bv in self.get_dependencies()])
            changes = {bv.output: matrix for bv, matrix in moving.items()}
            found = self.kept.second_columns(changes, values)
        return None if found is None else {bv: factor * found[bv.output] for bv in moving}

    def _carried(self, adjoint: Any, source: Any, dots: dict[Any, Any], inputs: list) -> Any:
        change = self.kept.derivative(source, dots, self._values(inputs))
        if isinstance(change, np.ndarray):
            return float(adjoint) * change
        with change.dat.vec as v:
            v.scale(float(adjoint))
        return change
