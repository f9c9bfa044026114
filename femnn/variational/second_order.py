"""Tangent-linear and second-order derivatives of a variational problem with networks inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl

from femnn.coefficient.chain_rule import constant_derivative, total_derivative
from femnn.fields.copies import copy_values
from femnn.fields.directions import Direction, directional_derivative
from femnn.parallel import sum_over_ranks
from femnn.points.network import NetworkDirection
from femnn.tape.weights import Weights
from femnn.variational.adjoint import Linearisation


class SecondOrder:
    """Changes of a solution, and of its gradients, in a direction of what it depends on.

    The solution's change du solves (dF/du) du = -(dF/dp) dp.  The gradient -(dF/dp)^T lambda
    changes with the adjoint state's own change, which solves the adjoint's system with
    another right side, and with second derivatives of F and of the networks; these come
    from UFL and from torch, contracted with the adjoint state and the direction, so that no
    matrix but the tangent is needed.

    Parameters
    ----------
    linearisation
        The solver's linearisation, whose forms this uses.
    """

    def __init__(self, linearisation: Linearisation):
        self.linearisation = linearisation
        self.solver = linearisation.solver
        self.kept = linearisation.kept
        space = self.solver.unknown.function_space()
        self._change, self._lift = fd.Function(space), fd.Function(space)
        self._adjoint, self._adjoint_change = fd.Function(space), fd.Function(space)
        self._right_side = fd.Cofunction(space.dual())
        self._fields = {s: Direction.like(copy) for s, copy in self.solver.sources.items()}
        self._networks = [_Network(n) for n in self.solver.networks]
        self._moving: list[Direction] = []

    def tangent(self, dots: Mapping[Any, Any]) -> fd.Function:
        """The change of the solution for changes of what it depends on.  Collective."""
        residual = self.solver.residual
        self._set(dots, None)
        self._right_side.zero()
        self._add(self._right_side, "tangent", lambda: residual, factor=-1.0)
        self._lift.zero()
        if any(dots.get(b.source) is not None for b in self.solver.boundary):
            self._lift_boundary(dots)
        self.linearisation.solve_tangent(self._right_side, self._change, transposed=False)
        with self._change.dat.vec as change, self._lift.dat.vec_ro as lift:
            change.axpy(1.0, lift)
        return self._change.copy(deepcopy=True)

    def solve(
        self,
        incoming: fd.Cofunction,
        adjoint_state: fd.Function,
        solution_dot: fd.Function | None,
        dots: Mapping[Any, Any],
    ) -> None:
        """Solve for the change of the adjoint state, from which gradients' changes follow.

        Parameters
        ----------
        incoming
            The change of dJ/du, so far as it is due to what comes after the solve.
        adjoint_state
            The adjoint state.
        solution_dot
            The change of the solution, from :meth:`tangent`.
        dots
            The direction: dependency to change.
        """
        linearisation, unknown = self.linearisation, self.solver.problem.u
        copy_values(adjoint_state, self._adjoint)
        copy_values(adjoint_state, linearisation.adjoint_state)
        for network in self._networks:
            network.note_cotangent(linearisation)
        self._set(dots, solution_dot, adjoint=True)
        for network in self._networks:
            network.note_change(linearisation, self._change_of)
        copy_values(incoming, self._right_side)
        self._add(self._right_side, unknown, partial(linearisation.field_form, unknown))
        copy_values(linearisation.solve(self._right_side), self._adjoint_change)

    def gradient(self, dependency: Any) -> Any:
        """The change of the gradient with respect to one dependency.  Collective."""
        linearisation = self.linearisation
        copy_values(self._adjoint_change, linearisation.adjoint_state)
        if isinstance(dependency, Weights):
            return self._of_weights(dependency)
        result = linearisation.gradient(dependency)
        copy_values(self._adjoint, linearisation.adjoint_state)
        if isinstance(dependency, fd.Constant):
            return result + self._of_constant(dependency)
        if isinstance(result, fd.Cofunction):
            self._add(result, dependency, partial(linearisation.field_form, dependency))
        return result

    def _lift_boundary(self, dots: Mapping[Any, Any]) -> None:
        """Let the boundary values' changes drive the tangent's right side."""
        for boundary in self.solver.boundary:
            dot = dots.get(boundary.source)
            if dot is None:
                boundary.bc.zero(self._lift)
            else:
                dot.apply(self._lift)
        residual, networks = self.solver.residual, self.linearisation.networks
        form = partial(total_derivative, residual, self.solver.unknown, self._lift, networks)
        assemble = self.kept("lift", form)
        if assemble is not None:
            _axpy(self._right_side, -1.0, assemble())

    def _of_weights(self, weights: Weights) -> Weights:
        total = np.zeros(len(weights))
        for network in self._networks:
            if network.weights is weights:
                vector = self.solver.weights_of(network.private)
                total += network.weight_gradient(self.linearisation, vector)
        return weights.like(sum_over_ranks(self.solver.unknown.comm, total))

    def _of_constant(self, constant: fd.Constant) -> np.ndarray:
        copy, networks = self.solver.private(constant), self.linearisation.networks
        gradient = np.zeros(constant.ufl_shape)
        for index in np.ndindex(constant.ufl_shape):
            first = partial(constant_derivative, self.linearisation.weighted, copy, index, networks)
            assemble = self._change_of((constant, index), first)
            gradient[index] = 0.0 if assemble is None else assemble()
        return gradient

    def _set(
        self, dots: Mapping[Any, Any], solution_dot: fd.Function | None, adjoint: bool = False
    ) -> None:
        """Take the direction, and find what it does to the networks."""
        unknown = self.solver.problem.u
        given = {d: dot for d, dot in dots.items() if d is not unknown}
        given[unknown] = solution_dot
        fields = []
        for source, direction in self._fields.items():
            if given.get(source) is not None:
                direction.assign(given[source])
                fields.append(direction)
        self._moving = list(fields)
        for network in self._networks:
            weights_dot = given.get(network.weights)
            network.at.set(fields, None if weights_dot is None else weights_dot.vector)
            if network.at.moves:
                network.move(self.solver.weights_of(network.private), adjoint)
                self._moving += network.at.directions

    def _change_of(self, key: Any, make_form: Callable[[], ufl.Form]) -> Callable | None:
        """The assembler of the change of a form in the direction that is set."""
        moving = list(self._moving)
        kept_as = ("change", key, tuple(id(d) for d in moving))
        return self.kept(kept_as, lambda: directional_derivative(make_form(), moving))

    def _add(
        self, target: fd.Cofunction, key: Any, make_form: Callable, factor: float = 1.0
    ) -> None:
        assemble = self._change_of(key, make_form)
        if assemble is not None:
            _axpy(target, factor, assemble())


class _Network:
    """A network of the unknown, moving in a direction."""

    def __init__(self, private: Any):
        self.private = private
        self.weights = private.coefficient.weights
        self.at = NetworkDirection(private.points, private.terms.value, private.terms.slope)
        self._cotangent: np.ndarray | None = None
        self._cotangent_change: np.ndarray | None = None
        self._gradient_change: np.ndarray | float = 0.0

    def note_cotangent(self, linearisation: Linearisation) -> None:
        """Keep what the adjoint state says of the network's values."""
        self._cotangent = self._rows(self._assembler(linearisation))
        self._gradient_change = 0.0

    def move(self, weights: np.ndarray, adjoint: bool) -> None:
        """Find what the direction does, with derivatives and weights' gradient for adjoints."""
        cotangent = self._cotangent if adjoint else None
        self._gradient_change = self.at.fill(weights, of_slope=adjoint, cotangent=cotangent)

    def note_change(self, linearisation: Linearisation, change_of: Callable) -> None:
        """Keep how the values' cotangent changes at a fixed adjoint state."""
        value = self.private.terms.value
        change = change_of(value, partial(linearisation.cotangent_form, value))
        self._cotangent_change = self._rows(change)

    def weight_gradient(self, linearisation: Linearisation, weights: np.ndarray) -> np.ndarray:
        """The rank's part of the change of the weights' gradient.

        The linearisation holds the change of the adjoint state.
        """
        total = np.zeros(len(self.weights))
        cotangents = [self._rows(self._assembler(linearisation)), self._cotangent_change]
        present = [c for c in cotangents if c is not None]
        if present:
            inputs, cotangent = self.private.points.inputs, sum(present[1:], present[0])
            total += self.private.evaluator.weight_vjp(inputs, cotangent, weights)
        return total + self._gradient_change

    def _assembler(self, linearisation: Linearisation) -> Callable | None:
        value = self.private.terms.value
        return linearisation.kept(value, partial(linearisation.cotangent_form, value))

    def _rows(self, assemble: Callable | None) -> np.ndarray | None:
        return None if assemble is None else self.private.points.at.rows(assemble()).copy()


def _axpy(target: fd.Cofunction, factor: float, part: fd.Cofunction) -> None:
    with target.dat.vec as total, part.dat.vec_ro as vector:
        total.axpy(factor, vector)
