"""A module's trainable parameters as one flat vector.  Needs torch and numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


class ParameterVector:
    """The trainable parameters among ``parameters``, as one float64 vector.

    Parameters
    ----------
    parameters
        Torch parameters; those with ``requires_grad=False`` (frozen) are left out.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        every = list(parameters)
        self.tensors = [p for p in every if p.requires_grad]
        self._first = every[0] if every else torch.empty(0, dtype=torch.float64)
        self.sizes = [p.numel() for p in self.tensors]
        self._loaded: tuple[np.ndarray, tuple, list[Tensor]] | None = None

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the first parameter is; the CPU where there is none."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """The first parameter's dtype; float64 where there is none."""
        return self._first.dtype

    def to_torch(self, array: np.ndarray) -> Tensor:
        """An array as a tensor of this device and dtype."""
        contiguous = np.ascontiguousarray(array)
        if not contiguous.flags.writeable:
            contiguous = contiguous.copy()
        tensor = torch.from_numpy(contiguous)
        if self.device.type == "cuda":  # from pinned memory, while the host goes on
            return tensor.pin_memory().to(self.device, non_blocking=True).to(self.dtype)
        return tensor.to(self.device, self.dtype)

    @property
    def key(self) -> tuple[int, ...]:
        """The identities of the parameters: equal for modules that share all of them."""
        return tuple(id(p) for p in self.tensors)

    def read(self) -> np.ndarray:
        """A copy of the current values, shape ``(n_weights,)``, float64."""
        return self.flatten([p.detach() for p in self.tensors])

    def write(self, vector: np.ndarray) -> None:
        """Set the parameters from ``vector``, shape ``(n_weights,)``."""
        with torch.no_grad():
            for p, values in zip(self.tensors, self._split(vector), strict=True):
                p.copy_(values)

    def zero_gradient(self) -> list[Tensor]:
        """Zeros in the shapes of the parameters."""
        return [torch.zeros_like(p) for p in self.tensors]

    @staticmethod
    def flatten(tensors: list[Tensor]) -> np.ndarray:
        """Join tensors in the parameters' shapes into one float64 vector."""
        if not tensors:
            return np.zeros(0)
        device = tensors[0].device  # joined there, so that one array is moved
        flat = torch.cat([t.reshape(-1).to(device, torch.float64) for t in tensors])
        return flat.cpu().numpy()

    @contextmanager
    def loaded(self, vector: np.ndarray | None, trainable: bool) -> Iterator[list[Tensor]]:
        """Let the module use ``vector`` as its weights, and give it its own back afterwards.

        The parameters' storage is exchanged, not copied.  ``trainable=False`` keeps torch
        from recording what only the weights' gradient would need.
        """
        own = [(p.data, p.requires_grad) for p in self.tensors]
        try:
            if vector is not None:
                for p, values in zip(self.tensors, self._cached_split(vector), strict=True):
                    p.data = values
            for p in self.tensors:
                p.requires_grad_(trainable)
            yield list(self.tensors)
        finally:
            for p, (data, requires_grad) in zip(self.tensors, own, strict=True):
                p.data = data
                p.requires_grad_(requires_grad)

    def split(self, vector: np.ndarray | None) -> list[Tensor] | None:
        """A vector as tensors in the parameters' shapes, or ``None`` for ``None``."""
        return None if vector is None else self._split(vector)

    def _split(self, vector: np.ndarray) -> list[Tensor]:
        vector = np.asarray(vector, dtype=float)
        if vector.shape != (len(self),):
            raise ValueError(
                f"got a weight vector of shape {vector.shape} for a network with {len(self)} "
                f"trainable weights: wanted shape ({len(self)},)."
            )
        flat = torch.tensor(vector).to(self.device)
        pieces = torch.split(flat, self.sizes)
        return [
            piece.reshape(p.shape).to(p.device, p.dtype)
            for piece, p in zip(pieces, self.tensors, strict=True)
        ]

    def _cached_split(self, vector: np.ndarray) -> list[Tensor]:
        """The vector as tensors; made once for each (read-only) vector."""
        if vector.flags.writeable:
            return self._split(vector)
        place = (self.device, self.dtype)
        known = self._loaded
        if known is None or known[0] is not vector or known[1] != place:
            self._loaded = known = (vector, place, self._split(vector))
        return known[2]
