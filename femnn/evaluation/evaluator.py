"""Values, derivatives and vector-Jacobian products of a module at many points.

Needs torch and numpy only.  Points are independent of each other, so the work is cut into
chunks whose intermediate results stay in the processor's cache, and memory does not grow
with the number of points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from femnn.evaluation.derivatives import along_directions, input_derivatives
from femnn.evaluation.parameters import ParameterVector
from femnn.evaluation.probe import Probe, check_module, to_numpy
from femnn.evaluation.threads import threads_for, torch_threads

# Two to three times faster than one batch for networks of usual width (see benchmarks/).
DEFAULT_CHUNK = 4096


@dataclass(frozen=True)
class Variation:
    """First-order changes of a network at this rank's points, in a direction.

    Attributes
    ----------
    values
        Shape ``(n_points, n_outputs)``.
    slope
        Of the derivatives, shape ``(n_points, n_outputs, n_inputs)``, where asked for.
    inputs
        Of the product of a fixed cotangent with the inputs' Jacobian, shape
        ``(n_points, n_inputs)``; zero where no cotangent was given.
    weights
        The same for the weights' Jacobian, this rank's sum, shape ``(n_weights,)``.
    """

    values: np.ndarray
    slope: np.ndarray | None
    inputs: np.ndarray
    weights: np.ndarray


class PointEvaluator:
    """Evaluate a module at points, in chunks, on the module's own device and dtype.

    Parameters
    ----------
    net
        A module that maps ``(points, n_inputs)`` to ``(points, n_outputs)``, each point
        on its own.
    n_inputs
        Number of inputs of each point.
    chunk_size
        Number of points that are evaluated together.

    Attributes
    ----------
    parameters : ParameterVector
        The module's trainable parameters as one vector.
    n_outputs : int
        Number of outputs, found by evaluating the module.
    sweeps : dict
        How many times all points were passed through the module, for values
        (``"value"``), values with derivatives (``"derivative"``), products with the
        weights' Jacobian (``"vjp"``) and changes in a direction (``"variation"``).

    Raises
    ------
    TypeError
        If ``net`` is not a torch module.
    ValueError
        If the module has no values yet, does not take ``n_inputs``, does not return real numbers
        of shape ``(points, outputs)``, gives other values at each call, or treats points
        differently when they come together.
    """

    def __init__(self, net: nn.Module, n_inputs: int, chunk_size: int | None = None):
        check_module(net)
        self.net = net
        self.n_inputs = n_inputs
        self.chunk_size = DEFAULT_CHUNK if chunk_size is None else int(chunk_size)
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: wanted a positive number of points.")
        self.parameters = ParameterVector(net.parameters())
        self.sweeps = {"value": 0, "derivative": 0, "vjp": 0, "variation": 0}
        self.threads = threads_for(sum(p.numel() for p in net.parameters()))
        self._probe = Probe(net, n_inputs, self.parameters)
        self.n_outputs = self._probe.n_outputs

    def version(self) -> int:
        """A number that grows when the module gives other values at the same weights.

        Seen at points of the last sweep, whatever the reason: buffers, frozen parameters, Python
        attributes.

        Raises
        ------
        ValueError
            If parameters were frozen or made trainable, or a layer was put into training mode.
        """
        return self._probe.version()

    @contextmanager
    def _loaded(
        self, weights: np.ndarray | None, trainable: bool, graph: bool = True
    ) -> Iterator[list[Tensor]]:
        """One pass of points, at these weights."""
        with (
            torch_threads(self.threads),
            self.parameters.loaded(weights, trainable) as tensors,
            torch.set_grad_enabled(graph),
        ):
            yield tensors

    def value(self, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Values of the module.

        Parameters
        ----------
        x
            Points, shape ``(n_points, n_inputs)``; rank-local.
        weights
            Weights to use, shape ``(n_weights,)``; ``None`` for the module's own.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_points, n_outputs)``, float64; rank-local.
        """
        self._probe.check_mode()
        self.sweeps["value"] += 1
        values = self._values(x, weights)
        self._probe.note(x, weights, values)
        return values

    def _values(self, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        values = np.empty((len(x), self.n_outputs))
        with self._loaded(weights, trainable=False, graph=False):
            for rows, points in self._chunks(x):
                values[rows] = to_numpy(self.net(points))
        return values

    def value_and_derivative(
        self, x: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and their derivatives with respect to the inputs, in one sweep.

        Parameters
        ----------
        x, weights
            As for :meth:`value`.

        Returns
        -------
        values : numpy.ndarray
            Shape ``(n_points, n_outputs)``.
        derivative : numpy.ndarray
            Shape ``(n_points, n_outputs, n_inputs)``.
        """
        self._probe.check_mode()
        self.sweeps["derivative"] += 1
        values, derivative = self._derivatives(x, weights)
        self._probe.note(x, weights, values)
        return values, derivative

    def _derivatives(
        self, x: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        values = np.empty((len(x), self.n_outputs))
        derivative = np.empty((len(x), self.n_outputs, self.n_inputs))
        with self._loaded(weights, trainable=False):
            for rows, points in self._chunks(x):
                points.requires_grad_(True)
                outputs = self.net(points)
                values[rows] = to_numpy(outputs)
                for j, slope in enumerate(input_derivatives(outputs, points)):
                    derivative[rows, j] = to_numpy(slope)
        return values, derivative

    def weight_vjp(
        self, x: np.ndarray, cotangent: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """The weights' part of :meth:`vjp`."""
        return self.vjp(x, cotangent, weights, of_inputs=False)[1]

    def vjp(
        self,
        x: np.ndarray,
        cotangent: np.ndarray,
        weights: np.ndarray | None = None,
        of_inputs: bool = True,
        of_weights: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Products of a vector with the values' Jacobians in the inputs and in the weights.

        Parameters
        ----------
        x, weights
            As for :meth:`value`.
        cotangent
            The vector, shape ``(n_points, n_outputs)``; rank-local.
        of_inputs, of_weights
            Which of the two are wanted; the other is zero.

        Returns
        -------
        inputs : numpy.ndarray
            Shape ``(n_points, n_inputs)``.
        weights : numpy.ndarray
            Sum over this rank's points, shape ``(n_weights,)``, float64.
        """
        self.sweeps["vjp"] += 1
        total = self.parameters.zero_gradient()
        inputs = np.zeros((len(x), self.n_inputs))
        with self._loaded(weights, trainable=of_weights) as tensors:
            wanted = tensors if of_weights else []
            for rows, points in self._chunks(x):
                places = [*wanted, points.requires_grad_(True)] if of_inputs else wanted
                outputs = self.net(points)
                if not (places and outputs.requires_grad):
                    break
                seed = self.parameters.to_torch(cotangent[rows])
                grads = torch.autograd.grad(outputs, places, seed, allow_unused=True)
                if of_weights:
                    _accumulate(total, grads[: len(tensors)])
                if of_inputs and grads[-1] is not None:
                    inputs[rows] = to_numpy(grads[-1])
        return inputs, self.parameters.flatten(total)

    def variation(
        self,
        x: np.ndarray,
        x_dot: np.ndarray | None,
        weights_dot: np.ndarray | None,
        weights: np.ndarray | None = None,
        of_slope: bool = True,
        cotangent: np.ndarray | None = None,
    ) -> Variation:
        """First-order changes in a direction of points and weights, in one sweep.

        Forward over reverse: the second derivatives of the network meet the direction, and
        the cotangent, without any matrix.

        Parameters
        ----------
        x, weights
            As for :meth:`value`.
        x_dot
            Change of the points, shape ``(n_points, n_inputs)``; ``None`` for none.
        weights_dot
            Change of the weights, shape ``(n_weights,)``; ``None`` for none.
        of_slope
            Whether the change of the derivatives is wanted.
        cotangent
            Where given, shape ``(n_points, n_outputs)``, the changes of :meth:`vjp` for this
            cotangent are found too.
        """
        self.sweeps["variation"] += 1
        return self._variation(x, x_dot, weights_dot, weights, of_slope, cotangent)

    def _variation(
        self,
        x: np.ndarray,
        x_dot: np.ndarray | None,
        weights_dot: np.ndarray | None,
        weights: np.ndarray | None,
        of_slope: bool,
        cotangent: np.ndarray | None,
    ) -> Variation:
        values = np.empty((len(x), self.n_outputs))
        slope = np.empty((len(x), self.n_outputs, self.n_inputs)) if of_slope else None
        total = self.parameters.zero_gradient()
        inputs = np.zeros((len(x), self.n_inputs))
        with self._loaded(weights, trainable=True) as tensors:
            for rows, points, change in self._changes(x, x_dot, weights_dot, tensors):
                values[rows] = to_numpy(change)
                if slope is not None:
                    slopes = input_derivatives(change, points, keep_graph=cotangent is not None)
                    for j, slope_j in enumerate(slopes):
                        slope[rows, j] = to_numpy(slope_j)
                if cotangent is not None and change.requires_grad:
                    seed, places = self.parameters.to_torch(cotangent[rows]), [*tensors, points]
                    grads = torch.autograd.grad(change, places, seed, allow_unused=True)
                    _accumulate(total, grads[: len(tensors)])
                    if grads[-1] is not None:
                        inputs[rows] = to_numpy(grads[-1])
        return Variation(values, slope, inputs, self.parameters.flatten(total))

    def _changes(
        self,
        x: np.ndarray,
        x_dot: np.ndarray | None,
        weights_dot: np.ndarray | None,
        tensors: list[Tensor],
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each chunk's rows, its points, and its outputs' change along the direction."""
        w_dot = self.parameters.split(weights_dot)
        of_weights = [] if w_dot is None else list(zip(tensors, w_dot, strict=True))
        for rows, points in self._chunks(x):
            points.requires_grad_(True)
            of_points = [] if x_dot is None else [(points, self.parameters.to_torch(x_dot[rows]))]
            yield rows, points, along_directions(self.net(points), of_points + of_weights)

    def _chunks(self, x: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(x), self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            yield rows, self.parameters.to_torch(x[rows])


def _accumulate(total: list[Tensor], grads: Sequence[Tensor | None]) -> None:
    for sum_, grad in zip(total, grads, strict=True):
        if grad is not None:
            sum_ += grad


def total_inputs(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of scalar inputs that operands of these shapes give."""
    return sum(int(np.prod(shape, dtype=int)) for shape in shapes)
