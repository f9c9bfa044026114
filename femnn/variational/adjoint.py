"""The adjoint of a variational problem with networks inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl

from femnn.coefficient.chain_rule import constant_derivative, total_derivative
from femnn.fields.bounds import Condition
from femnn.fields.copies import copy_values
from femnn.fields.cotangents import zero_cotangent
from femnn.fields.derivatives import constant_gradient
from femnn.fields.kept import KeptForms
from femnn.parallel import sum_over_ranks
from femnn.tape.weights import Weights
from femnn.variational.network import PrivateNetwork
from femnn.variational.state import State
from femnn.variational.tangent import TangentSolves


class AdjointState:
    """The solution of an adjoint equation.

    Parameters
    ----------
    value
        The adjoint state.
    incoming
        The right side, dJ/du.
    at_boundary
        Finds the boundary values' gradients.
    """

    def __init__(
        self,
        value: fd.Function,
        incoming: fd.Cofunction,
        at_boundary: Callable[[AdjointState], dict[Condition, fd.Cofunction]],
    ):
        self.value = value
        self.incoming = incoming
        self._at_boundary = at_boundary

    @cached_property
    def at_boundary(self) -> dict[Condition, fd.Cofunction]:
        """For each condition the gradient for its values.  Collective."""
        return self._at_boundary(self)


class Adjoint:
    """Adjoint solves at a state, and from each the gradient for every dependency.

    With F(u, m) = 0 and the adjoint state from (dF/du)^T lambda = dJ/du, the gradient is
    dJ/dm = -(dF/dm)^T lambda, where networks of the unknown count through dF/dq dN/dm.
    Forms and their assemblers are made once and kept.

    Parameters
    ----------
    state
        The state; what is asked for is at the values that are loaded there.
    adjoint_parameters
        Linear solver options, see :class:`TangentSolves`.
    """

    def __init__(self, state: State, adjoint_parameters: Mapping | None = None):
        self.state = state
        self.solve_tangent = TangentSolves(state, adjoint_parameters)
        self.kept = KeptForms(state.problem.form_compiler_parameters)
        self.terms = [n.terms for n in state.networks]
        space = state.unknown.function_space()
        self._lambdas = [fd.Function(space) for _ in state.parts]  # in the forms
        self._right_side = fd.Cofunction(space.dual())
        self.weighted = self._weighted()

    def solve(self, incoming: fd.Cofunction) -> AdjointState:
        """Solve the adjoint equation for dJ/du.  Collective."""
        copy_values(incoming, self._right_side)
        value = fd.Function(self.state.unknown.function_space())
        self.solve_tangent(self._right_side, value, transposed=True)
        return AdjointState(value, incoming, self._at_boundary)

    def gradient(self, dependency: Any, at: AdjointState) -> Any:
        """The gradient with respect to one dependency, in the type that the tape wants."""
        if isinstance(dependency, Weights):
            return self._weight_gradient(dependency, at)
        parts = [
            condition.given.cotangent(dependency, at.at_boundary[condition])
            for condition in self.state.conditions_of(dependency)
        ]
        if dependency in self.state.assembled.copies:
            of_residual = self.of_residual(at.value)
            parts.append(self.state.assembled.gradient(dependency, of_residual))
        return total_of([self.of_forms(dependency, at), *parts])

    def of_forms(self, dependency: Any, at: AdjointState) -> Any:
        """The part of the gradient that comes through the forms; ``None`` where there is none."""
        if dependency is self.state.problem.u or dependency not in self.state.copies:
            return None
        self.insert(at.value)
        if isinstance(dependency, fd.Constant):
            return self._constant_gradient(dependency)
        assemble = self.kept(dependency, partial(self.field_form, dependency))
        return zero_cotangent(dependency.function_space()) if assemble is None else assemble()

    def insert(self, value: fd.Function) -> None:
        """Let the forms hold this adjoint state, each at the rows for which it counts."""
        for part, held in zip(self.state.parts, self._lambdas, strict=True):
            copy_values(value, held)
            part.keep(held)

    def of_residual(self, value: fd.Function) -> fd.Function:
        """An adjoint state at the rows for which the residual counts."""
        part, *conditions = self.state.parts
        return part.keep(value.copy(deepcopy=True)) if conditions else value

    def field_form(self, dependency: fd.Function) -> ufl.Form:
        """-(dF/dm)^T lambda as a form, for a Function or the unknown."""
        copy = self.state.copies[dependency]
        test = fd.TestFunction(copy.function_space())
        return total_derivative(self.weighted, copy, test, self.terms)

    def entry_form(self, constant: fd.Constant, index: tuple[int, ...]) -> ufl.Form:
        """The same for one entry of a Constant."""
        return constant_derivative(self.weighted, self.state.copies[constant], index, self.terms)

    def cotangent_form(self, network: PrivateNetwork) -> ufl.Form:
        """-(dF/dq)^T lambda as a form, for a network's values q."""
        value = network.terms.value
        return fd.derivative(self.weighted, value, fd.TestFunction(value.function_space()))

    def cotangent(self, network: PrivateNetwork, value: fd.Function) -> np.ndarray | None:
        """-(dF/dq)^T lambda at the rank's points, a row for each; ``None`` where it is zero."""
        self.insert(value)
        assemble = self.kept(network, partial(self.cotangent_form, network))
        return None if assemble is None else network.points.at.rows(assemble()).copy()

    def _weighted(self) -> ufl.Form:
        """What the equation gives with the adjoint state in the test function's place, negative."""
        total = ufl.Form([])
        for part, held in zip(self.state.parts, self._lambdas, strict=True):
            (test,) = part.form.arguments()
            total = total - ufl.replace(part.form, {test: held})
        return total

    def _weight_gradient(self, weights: Weights, at: AdjointState) -> Weights:
        total = np.zeros(len(weights))
        for network in self.state.networks:
            if network.weights is weights:
                cotangent = self.cotangent(network, at.value)
                if cotangent is not None:
                    total += network.weight_vjp(cotangent, self.state.weights_of(network))
        return weights.like(sum_over_ranks(self.state.comm, total))

    def _at_boundary(self, at: AdjointState) -> dict[Condition, fd.Cofunction]:
        """What the adjoint equation leaves over at each condition's nodes."""
        self.insert(at.value)
        unknown = self.state.problem.u
        assemble = self.kept(unknown, partial(self.field_form, unknown))
        residual = at.incoming.copy(deepcopy=True)
        if assemble is not None:
            add(residual, 1.0, assemble())
        left, found = residual.riesz_representation("l2"), {}
        for condition in reversed(self.state.conditions):
            found[condition] = condition.cotangent(left)
            condition.zero(left)  # where conditions overlap, the last one sets the value
        return found

    def _constant_gradient(self, constant: fd.Constant) -> np.ndarray:
        def entry(index: tuple[int, ...]) -> float:
            assemble = self.kept((constant, index), partial(self.entry_form, constant, index))
            return 0.0 if assemble is None else assemble()

        return constant_gradient(constant, entry)


def add(target: fd.Cofunction, factor: float, part: fd.Cofunction) -> None:
    """Add ``factor * part`` to ``target``, without what Firedrake's ``+=`` compiles."""
    with target.dat.vec as total, part.dat.vec_ro as vector:
        total.axpy(factor, vector)


def total_of(parts: Sequence[Any]) -> Any:
    """The sum of Cotangents or arrays, in the first of them; ``None`` stands for zero."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    total = present[0]
    for part in present[1:]:
        total += part
    return total
