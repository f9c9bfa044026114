"""Values, derivatives and vector-Jacobian products of a module at many points.

Needs torch and numpy only.  Points are independent of each other, so the work is cut into
chunks whose intermediate results stay in the processor's cache, and memory does not grow
with the number of points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from femnn.evaluation.batches import Sweep, batch_size
from femnn.evaluation.derivatives import Variation, along_directions, input_derivatives
from femnn.evaluation.devices import FEWEST, devices, named, settle
from femnn.evaluation.parameters import ParameterVector
from femnn.evaluation.probe import Probe, check_module
from femnn.evaluation.threads import threads_for, torch_threads


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
        Number of points that are evaluated together; by default as many as suit the device.
    device
        Where the module is moved, by name.  ``"auto"``: to the fastest device, measured at the
        first sweep of a thousand points or more, by each rank for itself.  By default it stays
        where it is.

    Attributes
    ----------
    chunk_size : int or None
        The same.
    seconds : dict
        With ``"auto"``, what a sweep and a product took on each device.
    moves : int
        How many arrays were moved to the module's device and back: for each sweep one for each
        array that goes in or comes out, and none on a processor.
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
        If ``net`` is not a torch module, or the device is no name.
    ValueError
        If there is no such device, or the module has no values yet, does not take ``n_inputs``,
        does not return real numbers of shape ``(points, outputs)``, gives other values at each
        call, or treats points differently when they come together.
    """

    def __init__(
        self,
        net: nn.Module,
        n_inputs: int,
        chunk_size: int | None = None,
        device: str | torch.device | None = None,
    ):
        check_module(net)
        self._is_settled = device != "auto"
        if device is not None and self._is_settled:
            net.to(named(device))
        self.seconds: dict[str, float] = {}
        self.net = net
        self.n_inputs = n_inputs
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: wanted a positive number of points.")
        self.parameters = ParameterVector(net.parameters())
        self.sweeps = {"value": 0, "derivative": 0, "vjp": 0, "variation": 0}
        self.moves = 0
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
    def unchanged(self) -> Iterator[None]:
        """For sweeps between which nobody changes the module, as those of one solve."""
        yield

    def _settle(self, x: np.ndarray, weights: np.ndarray | None) -> None:
        """Choose the device, where that is still to be done and there are points to measure at."""
        if self._is_settled or len(x) < FEWEST:
            return
        self._is_settled, among = True, devices()
        if len(among) > 1:
            self.seconds = settle(self.net, self._again, x, weights, among)

    def _again(self) -> PointEvaluator:
        """Another one of the module, where it is."""
        return type(self)(self.net, self.n_inputs, self.chunk_size)

    @contextmanager
    def _sweep(
        self, weights: np.ndarray | None, trainable: bool, graph: bool = True
    ) -> Iterator[tuple[Sweep, list[Tensor]]]:
        """One pass of points, at these weights."""
        size = self.chunk_size or batch_size(self.net, self.parameters.device)
        sweep = Sweep(self.parameters, size)
        with (
            torch_threads(self.threads),
            self.parameters.loaded(weights, trainable) as tensors,
            torch.set_grad_enabled(graph),
        ):
            yield sweep, tensors
        self.moves += sweep.moves

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
        self._settle(x, weights)
        self._probe.check_mode()
        self.sweeps["value"] += 1
        values = self._values(x, weights)
        self._probe.note(x, weights, values)
        return values

    def _values(self, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        with self._sweep(weights, trainable=False, graph=False) as (sweep, _):
            values = sweep.results(len(x), self.n_outputs)
            for rows, points in sweep.batches(x):
                values[rows] = self.net(points)
            return sweep.back(values)

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
        self._settle(x, weights)
        self._probe.check_mode()
        self.sweeps["derivative"] += 1
        values, derivative = self._derivatives(x, weights)
        self._probe.note(x, weights, values)
        return values, derivative

    def _derivatives(
        self, x: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        with self._sweep(weights, trainable=False) as (sweep, _):
            values = sweep.results(len(x), self.n_outputs)
            derivative = sweep.results(len(x), self.n_outputs, self.n_inputs)
            for rows, points in sweep.batches(x):
                points.requires_grad_(True)
                outputs = self.net(points)
                values[rows] = outputs.detach()
                for j, slope in enumerate(input_derivatives(outputs, points)):
                    derivative[rows, j] = slope.detach()
            return sweep.back(values), sweep.back(derivative)

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
        with self._sweep(weights, trainable=of_weights) as (sweep, tensors):
            inputs, seeds = sweep.results(len(x), self.n_inputs), sweep.there(cotangent)
            wanted = tensors if of_weights else []
            for rows, points in sweep.batches(x):
                places = [*wanted, points.requires_grad_(True)] if of_inputs else wanted
                outputs = self.net(points)
                if not (places and outputs.requires_grad):
                    break
                grads = torch.autograd.grad(outputs, places, seeds[rows], allow_unused=True)
                if of_weights:
                    _accumulate(total, grads[: len(tensors)])
                if of_inputs and grads[-1] is not None:
                    inputs[rows] = grads[-1]
            # Without a move for what nobody asks for.
            of_points = sweep.back(inputs) if of_inputs else np.zeros(inputs.shape)
            return of_points, self.parameters.flatten(total)

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
        total = self.parameters.zero_gradient()
        with self._sweep(weights, trainable=True) as (sweep, tensors):
            values, inputs = (sweep.results(len(x), n) for n in (self.n_outputs, self.n_inputs))
            slope = sweep.results(len(x), self.n_outputs, self.n_inputs) if of_slope else None
            seeds = None if cotangent is None else sweep.there(cotangent)
            for rows, points, change in self._changes(sweep, x, x_dot, weights_dot, tensors):
                values[rows] = change.detach()
                if slope is not None:
                    slopes = input_derivatives(change, points, keep_graph=seeds is not None)
                    for j, slope_j in enumerate(slopes):
                        slope[rows, j] = slope_j.detach()
                if seeds is not None and change.requires_grad:
                    places = [*tensors, points]
                    grads = torch.autograd.grad(change, places, seeds[rows], allow_unused=True)
                    _accumulate(total, grads[: len(tensors)])
                    if grads[-1] is not None:
                        inputs[rows] = grads[-1]
            return Variation(
                sweep.back(values),
                None if slope is None else sweep.back(slope),
                np.zeros(inputs.shape) if seeds is None else sweep.back(inputs),
                self.parameters.flatten(total),
            )

    def _changes(
        self,
        sweep: Sweep,
        x: np.ndarray,
        x_dot: np.ndarray | None,
        weights_dot: np.ndarray | None,
        tensors: list[Tensor],
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each chunk's rows, its points, and its outputs' change along the direction."""
        w_dot = self.parameters.split(weights_dot)
        of_weights = [] if w_dot is None else list(zip(tensors, w_dot, strict=True))
        moving = None if x_dot is None else sweep.there(x_dot)
        for rows, points in sweep.batches(x):
            points.requires_grad_(True)
            of_points = [] if moving is None else [(points, moving[rows])]
            yield rows, points, along_directions(self.net(points), of_points + of_weights)


def _accumulate(total: list[Tensor], grads: Sequence[Tensor | None]) -> None:
    for sum_, grad in zip(total, grads, strict=True):
        if grad is not None:
            sum_ += grad


def total_inputs(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of scalar inputs that operands of these shapes give."""
    return sum(int(np.prod(shape, dtype=int)) for shape in shapes)
