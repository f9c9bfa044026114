"""Networks of an unknown, in a state's private copies."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np

from femnn.coefficient.chain_rule import Implicit
from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.fields.copies import Mirrors, dependencies_of
from femnn.points.network import NetworkAtPoints


class PrivateNetwork:
    """A coefficient of the unknown, with its operands written in private copies.

    Parameters
    ----------
    coefficient
        The coefficient.
    mirrors
        The private copies.

    Attributes
    ----------
    weights : Weights
        The network's weights, the user's.
    depends_on : list
        The private copies in the operands.
    terms : Implicit
        The network's values and derivatives, as they stand in forms.
    failure : Exception or None
        What the network has raised on this rank.
    """

    def __init__(self, coefficient: NeuralCoefficient, mirrors: Mirrors):
        self.coefficient = coefficient
        self.weights = coefficient.weights
        self.evaluator = coefficient.evaluator
        self.failure: Exception | None = None
        operands = mirrors(coefficient.inputs)
        self.depends_on = dependencies_of(operands)
        self.points = NetworkAtPoints(self.evaluator, operands, coefficient.points)
        (n_inputs,) = operands.ufl_shape
        n_outputs = self.evaluator.n_outputs
        slope_shape = (n_inputs,) if coefficient.ufl_shape == () else (n_outputs, n_inputs)
        self.terms = Implicit(
            value=fd.Function(coefficient.function_space(), name=coefficient.name()),
            slope=fd.Function(coefficient.points.space(slope_shape)),
            operands=operands,
            between_cells=coefficient.points.between_cells,
        )

    def version(self) -> Any:
        """The evaluator's; what it raises is kept, and the version is then equal to no other."""
        try:
            return self.evaluator.version()
        except Exception as error:
            self.failure = error
            return object()

    def evaluate(self, weights: np.ndarray) -> None:
        """Values and derivatives at the present operands.  Collective.

        What the network raises is kept as :attr:`failure`, and its values become NaN: Newton's
        method then ends on all ranks together, also where one alone has failed.
        """
        x = self.points.interpolate()
        try:
            if self.failure is not None:
                raise self.failure
            values, slope = self.evaluator.value_and_derivative(x, weights)
        except Exception as error:
            self.failure = error
            n_outputs = self.evaluator.n_outputs
            values = np.full((len(x), n_outputs), np.nan)
            slope = np.full((len(x), n_outputs, self.evaluator.n_inputs), np.nan)
        self.points.at.fill(self.terms.value, values)
        self.points.at.fill(self.terms.slope, slope)

    def weight_vjp(self, cotangent: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The rank's part of the weights' gradient, shape ``(n_weights,)``.

        Parameters
        ----------
        cotangent
            Of the values at the rank's points, shape ``(n_points, n_outputs)``.
        weights
            The weights in use, shape ``(n_weights,)``.
        """
        return self.evaluator.weight_vjp(self.points.inputs, cotangent, weights)
