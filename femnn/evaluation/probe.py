"""What is asked of a module: that it maps each point on its own, and whether it has changed.

Needs torch and numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from femnn.evaluation.parameters import ParameterVector

# Where a module is looked at before its operands are known, until its values are numbers.
RANGES = ((-0.9, 0.9), (0.1, 0.9), (1.0, 3.0), (200.0, 400.0))
N_POINTS = 3
# Larger tensors are compared by torch's count of their changes alone.
COMPARED = 65_536


def check_module(net: nn.Module) -> None:
    """Refuse what cannot be evaluated at all.

    Raises
    ------
    TypeError
        If ``net`` is not a torch module.
    ValueError
        If its parameters have no values yet, or several dtypes.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"a network must be a torch.nn.Module, not {type(net).__name__}: wrap a "
            "function in a module."
        )
    tensors = [*net.parameters(), *net.buffers()]
    if any(is_lazy(t) for t in tensors):
        raise ValueError(
            f"the network {type(net).__name__} has lazy layers whose sizes are not known yet: pass "
            "a batch of points through it first."
        )
    kinds = sorted({str(p.dtype) for p in net.parameters()})
    if len(kinds) > 1:
        raise ValueError(
            f"the network {type(net).__name__} has parameters of {' and '.join(kinds)}: give all "
            "the same with net.double() or net.float()."
        )
    if any(t.is_meta for t in tensors):
        raise ValueError(
            f"the network {type(net).__name__} is on the meta device and has no values: move it "
            "with net.to_empty(device='cpu') and load or initialise its weights."
        )


@dataclass
class _Seen:
    """Points with the module's values there at some weights."""

    points: np.ndarray
    weights: np.ndarray
    values: np.ndarray


class Probe:
    """A few points at which a module is looked at.

    Parameters
    ----------
    net
        The module.
    n_inputs
        Number of inputs of each point.
    parameters
        Its trainable parameters.

    Attributes
    ----------
    n_outputs : int
        Number of outputs of each point.

    Raises
    ------
    ValueError
        If the module does not take ``n_inputs``, does not return real numbers of shape ``(points,
        outputs)``, gives other values at each call, or treats points differently when they come
        together.
    """

    def __init__(self, net: nn.Module, n_inputs: int, parameters: ParameterVector):
        self.net = net
        self.name = type(net).__name__
        self.parameters = parameters
        self._by_mode = [m for m in net.modules() if isinstance(m, (_DropoutNd, _NormBase))]
        self._mine = {id(p) for p in parameters.tensors}
        points, outputs = self._first_values(n_inputs)
        self.n_outputs = outputs.shape[1]
        self._check_points(points, outputs)
        self._seen = _Seen(points, parameters.read(), outputs)
        self._rest = self._other_tensors()
        self._version = 0

    def version(self) -> int:
        """A number that grows when the module gives other values at the same weights.

        It may be due to buffers, frozen parameters or anything else that the module computes with.

        Raises
        ------
        ValueError
            If parameters were frozen or made trainable, or a layer was put into training mode.
        """
        self._check_trainable()
        self.check_mode()
        rest, seen = self._other_tensors(), self._seen
        values = self._values(seen.points, seen.weights)
        if rest != self._rest or not self._same(values, seen.values):
            self._version += 1
            self._rest, self._seen = rest, _Seen(seen.points, seen.weights, values)
        return self._version

    def note(self, x: np.ndarray, weights: np.ndarray | None, values: np.ndarray) -> None:
        """Look at some of these points from now on.

        Parameters
        ----------
        x
            Points, shape ``(n_points, n_inputs)``; rank-local.
        weights
            The weights that were used; ``None`` for the module's own.
        values
            What the module gave, shape ``(n_points, n_outputs)``.
        """
        if len(x):
            rows = np.linspace(0, len(x) - 1, N_POINTS).astype(int)
            used = self.parameters.read() if weights is None else weights
            self._seen = _Seen(x[rows].copy(), used, values[rows].copy())

    def check_mode(self) -> None:
        """Refuse layers whose values change from call to call."""
        if any(m.training for m in self._by_mode):
            raise ValueError(
                f"the network {self.name} has dropout or batch normalisation in "
                "training mode, so its values change from call to call: call net.eval()."
            )

    def _first_values(self, n_inputs: int) -> tuple[np.ndarray, np.ndarray]:
        """Points at which the module gives numbers, if there are any, and its values."""
        random = np.random.default_rng(0)
        for lower, upper in RANGES:
            points = random.uniform(lower, upper, (N_POINTS, n_inputs))
            outputs = self._checked_outputs(points)
            if np.isfinite(outputs).all():
                break
        return points, outputs

    def _checked_outputs(self, points: np.ndarray) -> np.ndarray:
        try:
            with torch.no_grad():
                outputs = self.net(self.parameters.to_torch(points))
        except (RuntimeError, IndexError, ValueError) as error:
            n = points.shape[1]
            raise ValueError(
                f"the network {self.name} does not take the {n} inputs that the operands "
                f"give (a batch of shape (points, {n})), or fails for another reason. It says: "
                f"{error}. Give it one input for each scalar operand and each component of a "
                f"vector operand; where that is so, look at its forward()."
            ) from error
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(points):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"the network {self.name} returned {got} for {len(points)} points: it must return "
                "a tensor of shape (points, outputs)."
            )
        if not outputs.is_floating_point():
            raise ValueError(
                f"the network {self.name} returned numbers of {outputs.dtype}, wanted floating "
                "numbers, and real ones: return real and imaginary parts as two outputs."
            )
        return to_numpy(outputs)

    def _check_points(self, points: np.ndarray, outputs: np.ndarray) -> None:
        """Refuse a module that gives a point other values at another call or in other company."""
        if self._same(outputs, self._checked_outputs(points)) and self._is_pointwise(
            points, outputs
        ):
            return
        raise ValueError(
            f"the network {self.name} gives a point another value at another call, or when other "
            "points are in the batch: random layers, and layers such as batch normalisation or "
            "dropout, must be in evaluation mode (net.eval()), or left out."
        )

    def _is_pointwise(self, points: np.ndarray, outputs: np.ndarray) -> bool:
        try:
            alone = np.concatenate([self._checked_outputs(p[None]) for p in points])
        except ValueError:  # batch normalisation refuses a single point
            return False
        return self._same(alone, outputs)

    def _same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Equal but for rounding, which depends on the size of a batch."""
        tolerance = 1e-11 if self.parameters.dtype == torch.float64 else 1e-4
        scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        return np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)

    def _values(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        with self.parameters.loaded(weights, trainable=False), torch.no_grad():
            return to_numpy(self.net(self.parameters.to_torch(points)))

    def _check_trainable(self) -> None:
        trainable = {id(p) for p in self.net.parameters() if p.requires_grad}
        if trainable != self._mine:
            what = "frozen" if self._mine - trainable else "made trainable"
            raise ValueError(
                f"parameters of the network {self.name} were {what} after its coefficient was "
                "made: make the coefficient anew, so that its weights hold what is to be trained."
            )

    def _other_tensors(self) -> tuple:
        """What buffers and frozen parameters hold."""
        every = (*self.net.parameters(), *self.net.buffers())
        rest = [t for t in every if id(t) not in self._mine]
        return tuple(
            to_numpy(t).tobytes() if t.numel() <= COMPARED else (id(t), t._version) for t in rest
        )


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor's values as float64 on the CPU."""
    return tensor.detach().to("cpu", torch.float64).numpy()
