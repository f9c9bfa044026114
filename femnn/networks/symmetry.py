"""Modules that give another module's law a symmetry or a structure.  Needs torch only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from femnn.networks.config import Configured
from femnn.networks.mlp import softplus


class _Reflected(Configured, nn.Module):
    """A module and its mirror image, in which some inputs have the other sign."""

    sign: float

    def __init__(self, net: nn.Module, inputs: Sequence[int] | None = None):
        super().__init__()
        self.net = net
        self.inputs = None if inputs is None else [int(i) for i in inputs]
        if self.inputs is not None and (not self.inputs or min(self.inputs) < 0):
            raise ValueError(
                f"{type(self).__name__}: inputs={self.inputs}: wanted at least one position, "
                "counted from 0, or None for all inputs."
            )

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as :meth:`from_config` takes them."""
        return {"net": self.net, "inputs": self.inputs}

    def flips(self, n_inputs: int) -> list[float]:
        """The factors that make an input's mirror image.

        Parameters
        ----------
        n_inputs
            Number of inputs.

        Returns
        -------
        list
            For each input -1 where it changes its sign, 1 where it does not.

        Raises
        ------
        ValueError
            If an input that is to change its sign is not there.
        """
        flipped = range(n_inputs) if self.inputs is None else self.inputs
        if max(flipped) >= n_inputs:
            raise ValueError(
                f"{type(self).__name__}: inputs={self.inputs}, but there are {n_inputs} inputs."
            )
        return [-1.0 if i in flipped else 1.0 for i in range(n_inputs)]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to what the module's own outputs become."""
        mirrored = x * x.new_tensor(self.flips(x.shape[1]))
        return (self.net(x) + self.sign * self.net(mirrored)) / 2


class Odd(_Reflected):
    """The odd part of a module: (f(x) - f(-x)) / 2.

    A flux that is odd in the gradient vanishes with it and turns round with it.

    Parameters
    ----------
    net
        Any module.
    inputs
        The inputs that change sign (all at the same time), by their positions; by default
        all.  In the others the law is as the module.

    Raises
    ------
    ValueError
        If ``inputs`` is empty or holds a negative position.
    """

    sign = -1.0


class Even(_Reflected):
    """The even part of a module: (f(x) + f(-x)) / 2.

    Parameters
    ----------
    net
        Any module.  The even part of a convex one is convex.
    inputs
        As for :class:`Odd`.

    Raises
    ------
    ValueError
        If ``inputs`` is empty or holds a negative position.
    """

    sign = 1.0


class SymmetricTensor(Configured, nn.Module):
    """A symmetric n x n tensor from the n (n + 1) / 2 outputs of any module.

    In a form: ``NeuralCoefficient(SymmetricTensor(net, 2), ..., shape=(2, 2))``.

    Parameters
    ----------
    net
        The module; its outputs are the lower triangle, row by row.
    n
        Rows of the tensor.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer.
    """

    def __init__(self, net: nn.Module, n: int):
        super().__init__()
        if int(n) != n or n < 1:
            raise ValueError(f"{type(self).__name__}: n={n!r}, wanted a positive integer.")
        self.net, self.n = net, int(n)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as :meth:`from_config` takes them."""
        return {"net": self.net, "n": self.n}

    @property
    def places(self) -> list[int]:
        """For each entry of the tensor, row by row, its place in the lower triangle."""
        pairs = [(max(i, j), min(i, j)) for i in range(self.n) for j in range(self.n)]
        return [row * (row + 1) // 2 + column for row, column in pairs]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, n * n)``, row by row."""
        return self.triangle(x)[:, self.places]

    def triangle(self, x: Tensor) -> Tensor:
        """The module's outputs, a lower triangle for each point.

        Parameters
        ----------
        x
            Points, shape ``(points, inputs)``.

        Returns
        -------
        torch.Tensor
            Its entries row by row, shape ``(points, n * (n + 1) / 2)``.

        Raises
        ------
        ValueError
            If the module has another number of outputs.
        """
        values, wanted = self.net(x), self.n * (self.n + 1) // 2
        if values.shape[1] != wanted:
            raise ValueError(
                f"{type(self).__name__}: the module gave {values.shape[1]} outputs, wanted "
                f"{wanted} for n={self.n}."
            )
        return values


class SPDTensor(SymmetricTensor):
    """A symmetric positive definite n x n tensor from the outputs of any module.

    L L^T + smallest I, where L is lower triangular with the module's outputs as entries,
    of which those on the diagonal pass through softplus.  Each such tensor whose
    eigenvalues are above ``smallest`` is reached by exactly one L.

    Parameters
    ----------
    net
        The module, with n (n + 1) / 2 outputs: L, row by row.
    n
        Rows of the tensor.
    smallest
        A lower bound of the eigenvalues, in the law's own unit.  Rounding takes it away
        where the largest eigenvalue is 1e15 times as large.

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer or ``smallest`` not a positive number.
    """

    def __init__(self, net: nn.Module, n: int, smallest: float = 1e-6):
        super().__init__(net, n)
        if not 0 < smallest < math.inf:
            raise ValueError(f"SPDTensor: smallest={smallest!r}, wanted a positive number.")
        self.smallest = float(smallest)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as :meth:`from_config` takes them."""
        return {**super().config, "smallest": self.smallest}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, n * n)``, row by row."""
        values = self.triangle(x)
        rows, start = [], 0
        for i in range(self.n):
            row = values[:, start : start + i + 1]
            rows.append(torch.cat([row[:, :i], softplus(row[:, i:])], 1))
            start += i + 1
        products = [
            (rows[i][:, : j + 1] * rows[j]).sum(1) + (self.smallest if i == j else 0.0)
            for i in range(self.n)
            for j in range(i + 1)
        ]
        return torch.stack(products, 1)[:, self.places]
