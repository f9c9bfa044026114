"""How many points go through a module together, and how they reach its device.  Needs torch only.

On a processor the intermediate results of a batch stay in its cache; an accelerator wants as many
points as its memory takes, and each move over its bus costs as much as thousands of points.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from femnn.evaluation.parameters import ParameterVector
from femnn.evaluation.probe import to_numpy
from femnn.evaluation.threads import local_ranks

# Two to three times faster than one batch for networks of usual width (see benchmarks/).
ON_PROCESSOR = 4096
LARGEST = 2**20
# Of an accelerator's free memory, and how many numbers of each unit a sweep keeps at once.
SHARE, KEPT = 0.25, 16


def batch_size(net: nn.Module, device: torch.device) -> int:
    """The number of points that are evaluated together on a device.

    Parameters
    ----------
    net
        The module, whose matrices tell how many units it has.
    device
        Where its parameters are.
    """
    if device.type != "cuda":
        return ON_PROCESSOR
    units = sum(p.shape[0] for p in net.parameters() if p.ndim > 1)
    free, _ = torch.cuda.mem_get_info(device)
    ranks = -(-local_ranks() // torch.cuda.device_count())  # that share the device
    points = SHARE * free / ranks / (8 * KEPT * max(1, units))
    return int(min(max(points, ON_PROCESSOR), LARGEST))


class Sweep:
    """One pass of all points through a module: moved to its device once, and back once.

    Parameters
    ----------
    parameters
        The module's, which say where it is.
    size
        The number of points in a batch.

    Attributes
    ----------
    moves : int
        How many arrays were moved to the device or back; on a processor none are.
    """

    def __init__(self, parameters: ParameterVector, size: int):
        self._parameters, self._size, self.moves = parameters, size, 0
        self._is_away = parameters.device.type != "cpu"

    def batches(self, x: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each batch and its points.

        Parameters
        ----------
        x
            Points, shape ``(n_points, n_inputs)``; rank-local.
        """
        points = self.there(x)
        for start in range(0, len(x), self._size):
            rows = slice(start, start + self._size)
            yield rows, points[rows]

    def there(self, array: np.ndarray) -> Tensor:
        """An array on the device, in the parameters' dtype."""
        self.moves += self._is_away
        return self._parameters.to_torch(array)

    def results(self, *shape: int) -> Tensor:
        """Zeros on the device to be filled, float64."""
        return torch.zeros(shape, dtype=torch.float64, device=self._parameters.device)

    def back(self, results: Tensor) -> np.ndarray:
        """What was filled, as an array."""
        self.moves += self._is_away
        return to_numpy(results)
