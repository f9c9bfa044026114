"""On which device a rank evaluates a module.  Needs torch and numpy only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

# With fewer points than this a sweep says nothing of those to come.
FEWEST = 1000
# Sweeps that are timed on each device, after one that is not: it makes what later ones keep.
TIMED = 2

_LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


def named(device: str | torch.device) -> torch.device:
    """The device of this name; of several CUDA devices that are not told apart, this rank's.

    Raises
    ------
    TypeError
        If it is no name.
    ValueError
        If there is no such device.
    """
    if not isinstance(device, (str, torch.device)):
        raise TypeError(
            f"device={device!r}: wanted a torch.device, its name such as 'cuda' or 'cuda:1', "
            "'cpu', or 'auto'."
        )
    try:
        found = torch.device(device)
        if found == torch.device("cuda"):
            found = torch.device("cuda", local_rank() % max(1, torch.cuda.device_count()))
        torch.empty(0, device=found)
        if found.type == "meta":
            raise RuntimeError("it has no values")
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ", ".join(map(str, devices()))
        raise ValueError(
            f"device={str(device)!r}: PyTorch cannot use it here ({_first_line(error)}). There is "
            f"{there}; 'auto' takes the fastest of these."
        ) from error
    return found


def devices() -> list[torch.device]:
    """The processor, and this rank's CUDA device if there is one."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerators = [torch.device("cuda", local_rank() % count)] if count else []
    return [torch.device("cpu"), *accelerators]


def local_rank() -> int:
    """The process's number among those of its node, as the launcher says; 0 without one."""
    number = next((os.environ[name] for name in _LOCAL_RANK if name in os.environ), "0")
    return int(number) if number.isdecimal() else 0


def settle(
    net: nn.Module,
    make: Callable[[], Any],
    x: np.ndarray,
    weights: np.ndarray | None,
    among: Sequence[torch.device],
) -> dict[str, float]:
    """Move a module to the device on which its sweeps are fastest.

    Parameters
    ----------
    net
        The module; it is moved in place, so that its parameters stay those that they are.
    make
        Gives an evaluator of the module, where it is.
    x
        Points, shape ``(n_points, n_inputs)``; rank-local.
    weights
        Weights to use, shape ``(n_weights,)``; ``None`` for the module's own.
    among
        Devices; of equal ones the first is taken.

    Returns
    -------
    dict
        Device to the seconds of a sweep with derivatives and a product with the weights' Jacobian.
    """
    seconds = {}
    for device in among:
        net.to(device)
        seconds[str(device)] = _seconds(make(), x, weights)
    net.to(min(seconds, key=lambda name: seconds[name]))
    return seconds


def _seconds(evaluator: Any, x: np.ndarray, weights: np.ndarray | None) -> float:
    """The least time; arrays of numpy come back, so that nothing is left to be waited for."""
    seed, times = np.ones((len(x), evaluator.n_outputs)), []
    for _ in range(TIMED + 1):
        start = time.perf_counter()
        evaluator.value_and_derivative(x, weights)
        evaluator.weight_vjp(x, seed, weights)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
