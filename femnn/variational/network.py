"""Networks of an unknown, in a state's private copies and on coarser levels."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np

from femnn.coefficient.chain_rule import Implicit
from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.evaluation.evaluator import PointEvaluator
from femnn.fields.copies import Mirrors, dependencies_of, owned_values
from femnn.fields.stamp import Stamp, Validity
from femnn.parallel import on_all_ranks
from femnn.points.network import NetworkAtPoints
from femnn.points.pointset import PointSet


class NetworkField(fd.Function):
    """A network's values or derivatives in a solver's forms, for which multigrid asks by its kind.

    Attributes
    ----------
    network : PrivateNetwork or LevelNetwork
        The network.
    """

    network: Any


class NetworkInForms:
    """A network at points, with its values and derivatives as they stand in a solver's forms.

    Parameters
    ----------
    evaluator
        The network.
    operands
        UFL vector of its inputs.
    points
        Where.
    space
        Of its values.
    name
        Its name.

    Attributes
    ----------
    depends_on : list
        The Functions and Constants in the operands.
    points : NetworkAtPoints
        The network at the points.
    terms : Implicit
        The network's values and derivatives, as they stand in forms.
    failure : Exception or None
        What the network has raised on this rank.
    """

    def __init__(
        self, evaluator: PointEvaluator, operands: Any, points: PointSet, space: Any, name: str
    ):
        self.evaluator = evaluator
        self.failure: Exception | None = None
        self.depends_on = dependencies_of(operands)
        self.points = NetworkAtPoints(evaluator, operands, points)
        n, m = evaluator.n_inputs, evaluator.n_outputs
        slope_shape = (n,) if space.value_shape == () else (m, n)
        self.terms = Implicit(
            value=self._field(space, name),
            slope=self._field(points.space(slope_shape), f"d{name}"),
            operands=operands,
            between_cells=points.between_cells,
        )

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

    def _field(self, space: Any, name: str) -> NetworkField:
        field = NetworkField(space, name=name)
        field.network = self
        return field


class PrivateNetwork(NetworkInForms):
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
    levels : list of LevelNetwork
        The same network on coarser levels of multigrid.
    in_use : numpy.ndarray
        The weights of the last evaluation.
    n_evaluations : int
        How often it was evaluated.
    """

    def __init__(self, coefficient: NeuralCoefficient, mirrors: Mirrors):
        self.coefficient = coefficient
        self.weights = coefficient.weights
        self.levels: list[LevelNetwork] = []
        self.in_use = np.empty(0)
        self.n_evaluations = 0
        operands, space = mirrors(coefficient.inputs), coefficient.function_space()
        name, at = coefficient.name(), coefficient.points
        super().__init__(coefficient.evaluator, operands, at, space, name)

    @property
    def finest(self) -> PrivateNetwork:
        """Itself."""
        return self

    def version(self) -> Any:
        """The evaluator's; what it raises is kept, and the version is then equal to no other."""
        try:
            return self.evaluator.version()
        except Exception as error:
            self.failure = error
            return object()

    def evaluate(self, weights: np.ndarray) -> None:
        """Values and derivatives at the present operands; see :class:`NetworkInForms`."""
        super().evaluate(weights)
        self.in_use = weights
        self.n_evaluations += 1

    def evaluate_levels(self) -> None:
        """Let the coarser levels have the values at their operands.  Collective."""
        for level in self.levels:
            level.update()

    def weight_vjp(self, cotangent: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The rank's part of the weights' gradient, shape ``(n_weights,)``.  Collective.

        What the network raises on one rank is an error on all.

        Parameters
        ----------
        cotangent
            Of the values at the rank's points, shape ``(n_points, n_outputs)``.
        weights
            The weights in use, shape ``(n_weights,)``.
        """
        comm, x = self.points.at.mesh.comm, self.points.inputs
        return on_all_ranks(comm, self.evaluator.weight_vjp, x, cotangent, weights)


class LevelNetwork(NetworkInForms):
    """The network of a finer level, of a coarser level's operands.

    Parameters
    ----------
    finer
        The network on the next finer level.
    operands
        The operands on this level.
    points
        Where.
    """

    def __init__(self, finer: PrivateNetwork | LevelNetwork, operands: Any, points: PointSet):
        self.finest: PrivateNetwork = finer.finest
        value = finer.terms.value
        space = points.space(value.ufl_shape)
        super().__init__(finer.evaluator, operands, points, space, value.name())
        self._fields = [d for d in self.depends_on if isinstance(d, fd.Function)]
        self._evaluated = Validity(points.mesh.comm)
        self.finest.levels.append(self)

    def update(self) -> None:
        """Let the values be those at this level's operands, and at the weights in use.  Collective.

        Nothing is done where neither has changed, or the finest level was never evaluated.
        """
        finest = self.finest
        if not finest.n_evaluations:
            return
        values = [owned_values(f) for f in self._fields]
        present = Stamp((finest.n_evaluations,), np.concatenate(values) if values else None)
        if not self._evaluated.holds(present):
            self.failure = finest.failure
            self.evaluate(finest.in_use)
            finest.failure = self.failure
            self._evaluated.note(present)
