"""Values, derivatives and vector-Jacobian products of a module at many points.

Needs torch and numpy only.  Points are independent of each other, so the work is cut into
chunks whose intermediate results stay in the processor's cache, and memory does not grow
with the number of points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from femnn.evaluation.derivatives import along_directions, input_derivatives
from femnn.evaluation.parameters import ParameterVector

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
        If the module does not take ``n_inputs``, does not return ``(points, outputs)``,
        or treats points differently when they come together.
    """

    def __init__(self, net: nn.Module, n_inputs: int, chunk_size: int | None = None):
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"a network must be a torch.nn.Module, not {type(net).__name__}: wrap a "
                "function in a module."
            )
        self.net = net
        self.n_inputs = n_inputs
        self.chunk_size = DEFAULT_CHUNK if chunk_size is None else int(chunk_size)
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: wanted a positive number of points.")
        self.parameters = ParameterVector(net.parameters())
        self.sweeps = {"value": 0, "derivative": 0, "vjp": 0, "variation": 0}
        self._by_mode = [m for m in net.modules() if isinstance(m, (_DropoutNd, _NormBase))]
        self.n_outputs = self._probe()

    def state(self) -> tuple:
        """Changes whenever what is not a weight (buffers, frozen parameters) has changed."""
        mine = {id(p) for p in self.parameters.tensors}
        rest = [t for t in (*self.net.parameters(), *self.net.buffers()) if id(t) not in mine]
        if any(t.requires_grad for t in rest):
            raise ValueError(
                f"parameters of the network {type(self.net).__name__} were made trainable after "
                "its coefficient was made: make the coefficient anew, so that its weights hold "
                "them."
            )
        return tuple((id(t), t._version) for t in rest)

    def _check_mode(self) -> None:
        if any(m.training for m in self._by_mode):
            raise ValueError(
                f"the network {type(self.net).__name__} has dropout or batch normalisation in "
                "training mode, so its values change from call to call: call net.eval()."
            )

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
        self.sweeps["value"] += 1
        values = np.empty((len(x), self.n_outputs))
        self._check_mode()
        with self.parameters.loaded(weights, trainable=False), torch.no_grad():
            for rows, points in self._chunks(x):
                values[rows] = _to_numpy(self.net(points))
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
        self.sweeps["derivative"] += 1
        values = np.empty((len(x), self.n_outputs))
        derivative = np.empty((len(x), self.n_outputs, self.n_inputs))
        self._check_mode()
        with self.parameters.loaded(weights, trainable=False), torch.enable_grad():
            for rows, points in self._chunks(x):
                points.requires_grad_(True)
                outputs = self.net(points)
                values[rows] = _to_numpy(outputs)
                for j, slope in enumerate(input_derivatives(outputs, points)):
                    derivative[rows, j] = _to_numpy(slope)
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
        with self.parameters.loaded(weights, trainable=of_weights) as tensors, torch.enable_grad():
            wanted = tensors if of_weights else []
            for rows, points in self._chunks(x):
                places = [*wanted, points.requires_grad_(True)] if of_inputs else wanted
                outputs = self.net(points)
                if not (places and outputs.requires_grad):
                    break
                seed = self._to_torch(cotangent[rows])
                grads = torch.autograd.grad(outputs, places, seed, allow_unused=True)
                if of_weights:
                    _accumulate(total, grads[: len(tensors)])
                if of_inputs and grads[-1] is not None:
                    inputs[rows] = _to_numpy(grads[-1])
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
        values = np.empty((len(x), self.n_outputs))
        slope = np.empty((len(x), self.n_outputs, self.n_inputs)) if of_slope else None
        total = self.parameters.zero_gradient()
        inputs = np.zeros((len(x), self.n_inputs))
        with self.parameters.loaded(weights, trainable=True) as tensors, torch.enable_grad():
            for rows, points, change in self._changes(x, x_dot, weights_dot, tensors):
                values[rows] = _to_numpy(change)
                if slope is not None:
                    slopes = input_derivatives(change, points, keep_graph=cotangent is not None)
                    for j, slope_j in enumerate(slopes):
                        slope[rows, j] = _to_numpy(slope_j)
                if cotangent is not None and change.requires_grad:
                    seed, places = self._to_torch(cotangent[rows]), [*tensors, points]
                    grads = torch.autograd.grad(change, places, seed, allow_unused=True)
                    _accumulate(total, grads[: len(tensors)])
                    if grads[-1] is not None:
                        inputs[rows] = _to_numpy(grads[-1])
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
            of_points = [] if x_dot is None else [(points, self._to_torch(x_dot[rows]))]
            yield rows, points, along_directions(self.net(points), of_points + of_weights)

    def _chunks(self, x: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(x), self.chunk_size):
            rows = slice(start, start + self.chunk_size)
            yield rows, self._to_torch(x[rows])

    def _to_torch(self, array: np.ndarray) -> Tensor:
        contiguous = np.ascontiguousarray(array)
        if not contiguous.flags.writeable:
            contiguous = contiguous.copy()
        return torch.from_numpy(contiguous).to(self.parameters.device, self.parameters.dtype)

    def _probe(self) -> int:
        """Number of outputs; checks the module on a few points on the way."""
        points = np.random.default_rng(0).uniform(0.1, 0.9, (3, self.n_inputs))
        name = type(self.net).__name__
        try:
            with torch.no_grad():
                outputs = self.net(self._to_torch(points))
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(
                f"the network {name} does not take the {self.n_inputs} inputs that the operands "
                f"give (a batch of shape (points, {self.n_inputs})). It says: {error}. "
                "Give it one input for each scalar operand and each component of a vector operand."
            ) from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 3:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"the network {name} returned {got} for 3 points: it must return a tensor of "
                "shape (points, outputs)."
            )
        if bool(torch.isfinite(outputs).all()) and not self._is_pointwise(points, outputs):
            raise ValueError(
                f"the network {name} gives a point another value when other points are in the "
                "batch: layers such as batch normalisation or dropout must be in evaluation mode "
                "(net.eval()), or left out."
            )
        return outputs.shape[1]

    def _is_pointwise(self, points: np.ndarray, outputs: Tensor) -> bool:
        """Whether each point, alone, has the value that it has among the others."""
        tolerance = 1e-3 if self.parameters.dtype != torch.float64 else 1e-8
        try:
            with torch.no_grad():
                alone = torch.cat([self.net(self._to_torch(p[None])) for p in points])
        except (RuntimeError, ValueError):  # batch normalisation refuses a single point
            return False
        return torch.allclose(outputs, alone, rtol=tolerance, atol=tolerance)


def _accumulate(total: list[Tensor], grads: Sequence[Tensor | None]) -> None:
    for sum_, grad in zip(total, grads, strict=True):
        if grad is not None:
            sum_ += grad


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).numpy()


def total_inputs(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of scalar inputs that operands of these shapes give."""
    return sum(int(np.prod(shape, dtype=int)) for shape in shapes)
