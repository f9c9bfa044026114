"""Gaussian priors of weights and Constants, recorded as half a sum of squares."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint import AdjFloat
from pyadjoint.tape import annotate_tape

from femnn.tape.numbers import numbers_of
from femnn.tape.sums import EntrywiseSum
from femnn.tape.vector import recorded
from femnn.tape.weights import Weights
from femnn.training.metrics import Diagonal

GROUPS = ("parameters", "layers", "all")


class GaussianPrior:
    """Independent normal densities of the entries of a control, one precision for each group.

    Add :meth:`energy` to minus the log likelihood.  :func:`femnn.laplace` and
    :func:`femnn.fit_with_evidence` find it there; the latter estimates the precisions.

    Parameters
    ----------
    control
        Weights of a network, ``kappa.weights``, or a Constant.
    precision
        One divided by the variance of an entry, one number or one for each group, shape
        ``(n_groups,)``.
    mean
        The densities' means: a number, or one for each entry, shape ``(n,)`` (of a Constant its
        own shape), such as ``kappa.weights.vector`` for the present weights.
    groups
        Which weights have a precision in common: ``"parameters"``, each weight matrix and each
        vector of biases; ``"layers"``, both of a layer; ``"all"``.  A Constant is one group.
    fixed
        Whether the precisions are known, so that they are not estimated.

    Attributes
    ----------
    control : Weights or firedrake.Constant
        The control.
    names : tuple of str
        The groups' names.
    mean : numpy.ndarray
        The means, shape ``(n,)``.
    fixed : bool
        Whether the precisions are known.

    Raises
    ------
    TypeError
        If ``control`` is neither weights of a network nor a Constant.
    ValueError
        If a precision is not positive, a mean not finite, a shape does not fit, or ``groups`` is
        unknown.

    Notes
    -----
    Weights of layers of different widths and biases are of different size, so that one precision
    for all of them prefers some to others.

    References
    ----------
    D. J. C. MacKay, A practical Bayesian framework for backpropagation networks, Neural
    Computation 4 (1992).

    Examples
    --------
    >>> prior = GaussianPrior(kappa.weights)
    >>> J = data.misfit(u) + prior.energy()
    """

    def __init__(
        self,
        control: Any,
        precision: Any = 1.0,
        *,
        mean: Any = 0.0,
        groups: str = "parameters",
        fixed: bool = False,
    ):
        if not isinstance(control, (Weights, fd.Constant)):
            raise TypeError(
                f"GaussianPrior got a {type(control).__name__}: wanted the weights of a network, "
                "as in GaussianPrior(kappa.weights), or a Constant."
            )
        self.control, self.fixed = control, fixed
        self.names, self._group = _grouped(control, groups)
        self.mean = _mean_of(control, mean)
        self.precision = precision

    @property
    def precision(self) -> np.ndarray:
        """The precisions, shape ``(n_groups,)``.

        What is recorded follows when its functional is evaluated next.

        Raises
        ------
        ValueError
            If others are given, and are not positive or of another shape.
        """
        return self._precision

    @precision.setter
    def precision(self, precision: Any) -> None:
        """Take others: one number, or one for each group."""
        array = np.asarray(precision, dtype=float)
        if array.shape not in ((), (len(self.names),)):
            raise ValueError(
                f"GaussianPrior: precisions of shape {array.shape}, wanted one number or "
                f"({len(self.names)},), one for each of {', '.join(self.names)}."
            )
        if not (np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(
                f"GaussianPrior: precision={precision!r}, wanted positive numbers: one divided by "
                "the square of how far an entry is expected from its mean."
            )
        self._precision = np.broadcast_to(array, (len(self.names),)).copy()

    def of_entries(self) -> np.ndarray:
        """The precision of each entry.

        Returns
        -------
        numpy.ndarray
            Shape ``(n,)``.
        """
        return self._precision[self._group]

    @property
    def metric(self) -> Diagonal:
        """The precisions as an inner product of the entries."""
        return Diagonal(self.of_entries())

    def by_group(self, entries: np.ndarray) -> np.ndarray:
        """Sums over the entries of each group.

        Parameters
        ----------
        entries
            Shape ``(n,)``.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_groups,)``.
        """
        return np.bincount(self._group, entries, minlength=len(self.names))

    def energy(self) -> AdjFloat:
        """Half the sum of precision times squared distance from the mean; recorded.

        Minus the logarithm of the density, up to a constant.

        Returns
        -------
        AdjFloat
            The same on every rank.
        """
        if annotate_tape():
            return recorded(PriorBlock(self))
        return AdjFloat(self.value(numbers_of(self.control)))

    def value(self, entries: np.ndarray) -> float:
        """The energy at given entries.

        Parameters
        ----------
        entries
            Shape ``(n,)``.

        Returns
        -------
        float
            Half a sum of squares.
        """
        return 0.5 * float(self.of_entries() @ (entries - self.mean) ** 2)

    def __len__(self) -> int:
        return len(self._group)

    def __repr__(self) -> str:
        known = ", ".join(f"{n}: {p:.3g}" for n, p in zip(self.names, self.precision, strict=True))
        return f"GaussianPrior({known})"


class PriorBlock(EntrywiseSum):
    """The energy of a prior, with the precisions that it has when it is evaluated.

    Parameters
    ----------
    prior
        The prior.
    """

    def __init__(self, prior: GaussianPrior):
        super().__init__(prior.control)
        self.prior = prior

    def __str__(self) -> str:
        return "energy of a prior"

    def total(self, x: np.ndarray) -> float:
        return self.prior.value(x)

    def slope(self, x: np.ndarray) -> np.ndarray:
        return self.prior.of_entries() * (x - self.prior.mean)

    def bend(self, x: np.ndarray) -> np.ndarray:
        return self.prior.of_entries()


def _grouped(control: Any, groups: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The groups' names, and the group of each entry."""
    if groups not in GROUPS:
        raise ValueError(f"GaussianPrior got groups={groups!r}: wanted one of {list(GROUPS)}.")
    if isinstance(control, fd.Constant):
        return (control.name,), np.zeros(len(numbers_of(control)), dtype=int)
    named = control.named_parameters()
    if not named:
        raise ValueError(
            f"GaussianPrior: {control.name} has no trainable parameters of a network: wanted those "
            "of Weights.of(net) or kappa.weights."
        )
    keys = [name for name, _ in named]
    if groups == "layers":
        keys = [name.rpartition(".")[0] or name for name in keys]
    elif groups == "all":
        keys = [control.name] * len(named)
    names = tuple(dict.fromkeys(keys))
    numbers = [names.index(key) for key in keys]
    return names, np.repeat(numbers, [p.numel() for _, p in named])


def _mean_of(control: Any, mean: Any) -> np.ndarray:
    n = len(numbers_of(control))
    array = np.asarray(
        numbers_of(mean) if isinstance(mean, (Weights, fd.Constant)) else mean, float
    )
    shapes = {(), (n,), getattr(control, "ufl_shape", (n,))}
    if array.shape not in shapes or not np.isfinite(array).all():
        raise ValueError(
            f"GaussianPrior got a mean of shape {array.shape}: wanted one finite number, or "
            f"{n}, one for each entry."
        )
    return np.broadcast_to(array.ravel() if array.ndim else array, (n,)).copy()
