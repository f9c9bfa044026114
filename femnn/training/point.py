"""A point of a training: values of the controls, with the loss there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """Values of the controls with the loss and its gradient there.

    Attributes
    ----------
    vector, gradient
        Shape ``(n,)`` with one entry for each of the controls' numbers, the same on every rank.
    loss
        The loss, the same on every rank.
    gradient_norm, largest_entry
        Of the gradient that bounds leave free; see
        :meth:`~femnn.training.controls.ControlVector.size_of_gradient`.
    """

    vector: np.ndarray
    loss: float
    gradient: np.ndarray
    gradient_norm: float
    largest_entry: float
