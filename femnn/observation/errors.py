"""How large the errors of data are, how they hang together in time, and the weighted residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import firedrake as fd
import numpy as np
import torch
from torch import Tensor, nn

from femnn.autograd.values import array_of
from femnn.fields.copies import is_real


class ErrorModel:
    """A scale of the data's errors that depends on the model and on parameters to be estimated.

    Parameters
    ----------
    function
        Called as ``function(model, *parameters)`` with torch tensors: the model's values, shape
        ``(n_values,)``, and the parameters' values, which broadcast with them.  Returns the scale,
        which multiplies the standard deviations.
    *parameters
        Constants or Functions on the Real space, which can be controls: scalars, or one number for
        each station.

    Raises
    ------
    TypeError
        If ``function`` cannot be called, or a parameter is of another kind.

    Notes
    -----
    The scale must be positive: a parameter that an optimiser moves is safer as a logarithm,
    ``torch.exp(log_sigma)``.

    Examples
    --------
    >>> sg0, sg1 = Constant(0.1), Constant(0.05)
    >>> scale = ErrorModel(lambda model, a, b: a + b * abs(model), sg0, sg1)
    >>> data = Observations(gauges, discharge, times=days, scale=scale)
    """

    def __init__(self, function: Callable[..., Tensor], *parameters: Any):
        if not callable(function) or isinstance(function, (fd.Constant, fd.Function)):
            raise TypeError(
                f"ErrorModel got a {type(function).__name__} as its function: wanted one of the "
                "model and the parameters, as in ErrorModel(lambda model, a: a * abs(model), a)."
            )
        for parameter in parameters:
            check_parameter("ErrorModel", parameter)
        self.function, self.parameters = function, parameters


def check_parameter(who: str, value: Any) -> None:
    """Raise where a value cannot be a parameter of an error model."""
    on_real = isinstance(value, fd.Function) and is_real(value.function_space())
    if not (isinstance(value, fd.Constant) or on_real):
        raise TypeError(
            f"{who} got a {type(value).__name__} as a parameter: wanted a Constant or a Function "
            "on the Real space, as in Constant(0.1)."
        )


class Errors:
    """The errors of data: residuals weighted by them, and what their density adds to these.

    Parameters
    ----------
    values, std
        Data and standard deviations, shape ``(n,)``.
    times
        Their times, shape ``(n,)``, not decreasing; ``None`` without.
    columns
        What number is observed by each, shape ``(n,)``.
    n_columns
        How many numbers are observed.
    scale
        ``None``, a Constant or a Function on the Real space, or an :class:`ErrorModel`.
    correlation
        ``None``, or the time after which errors of one number are correlated by 1 / e: a number,
        an array of shape ``(n_columns,)``, a Constant or a Function on the Real space.

    Attributes
    ----------
    parameters : list
        The Constants and Functions among these.
    are_estimated : bool
        Whether the errors depend on parameters or the model, so that their density counts.
    common_scale : firedrake.Constant, firedrake.Function or None
        The one number by which all standard deviations are multiplied, where there is one.
    """

    def __init__(
        self,
        values: np.ndarray,
        std: np.ndarray,
        times: np.ndarray | None,
        columns: np.ndarray,
        n_columns: int,
        scale: Any = None,
        correlation: Any = None,
    ):
        self._values, self._std = torch.tensor(values), torch.tensor(std)
        self._columns = torch.tensor(columns)
        self._scale = None if scale is None else _as_model(scale)
        is_plain = scale is not None and not isinstance(scale, ErrorModel)
        self.common_scale = scale if is_plain and array_of(scale).size == 1 else None
        self.parameters = [] if self._scale is None else list(self._scale.parameters)
        self._n_scale = len(self.parameters)
        self._correlation: Tensor | None = None
        self._is_correlated = correlation is not None
        if self._is_correlated:
            self._set_correlation(correlation, times, columns)
        self.are_estimated = self._scale is not None or len(self.parameters) > 0
        for parameter in self.parameters:
            _check_size("parameter of the errors", array_of(parameter), n_columns)
        if self._correlation is not None:
            _check_size("correlation", self._correlation.numpy(), n_columns)

    def residuals(self, model: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Weighted residuals, (model - data) / error, of which no two are correlated."""
        r = (model - self._values) / self.std(model, parameters)
        if not self._is_correlated:
            return r
        kept, lost = self._memory(parameters)
        return (r - kept * r[self._before]) / torch.sqrt(lost)

    def logarithms(self, model: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Logarithms of the errors' sizes, of which minus the log likelihood has the sum."""
        log = torch.log(self.std(model, parameters))
        if not self._is_correlated:
            return log
        return log + 0.5 * torch.log(self._memory(parameters)[1])

    def std(self, model: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The standard deviations at the model's values, shape ``(n,)``."""
        if self._scale is None:
            return self._std
        given = [self._for_each(p) for p in parameters[: self._n_scale]]
        scale = torch.as_tensor(self._scale.function(model, *given), dtype=self._std.dtype)
        return self._std * scale.expand_as(self._std)

    def present_std(self, model: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
        """The standard deviations at the parameters' present values, shape ``(n,)``.

        Parameters
        ----------
        model
            The model's values, shape ``(n,)``.
        where
            Says where a value is, by its number.
        """
        present = [torch.as_tensor(array_of(p)) for p in self.parameters]
        with torch.no_grad():
            std = self.std(torch.as_tensor(model), present).numpy()
        bad = np.flatnonzero(~(std > 0))
        if len(bad) and self._scale is not None:
            raise ValueError(
                f"Observations: the scale makes the standard deviation {std[bad[0]]:g} "
                f"{where(int(bad[0]))}: wanted a positive number. Start from other parameters, or "
                "let the scale have torch.exp of them."
            )
        return std

    def _memory(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The correlation with the value before, and one minus its square."""
        tau = parameters[-1] if self._correlation is None else self._correlation
        exponent = self._since / self._for_each(tau)
        kept = torch.where(self._is_first, 0.0, torch.exp(-exponent))
        return kept, torch.where(self._is_first, 1.0, -torch.expm1(-2 * exponent))

    def _for_each(self, parameter: Tensor) -> Tensor:
        """A parameter for each value."""
        if parameter.numel() == 1:
            return parameter.reshape(())
        return parameter.reshape(-1)[self._columns]

    def _set_correlation(
        self, correlation: Any, times: np.ndarray | None, columns: np.ndarray
    ) -> None:
        if times is None:
            raise ValueError(
                "Observations got correlation=... without times: give the times of the values."
            )
        if isinstance(correlation, (fd.Constant, fd.Function)):
            check_parameter("Observations", correlation)
            self.parameters.append(correlation)
        else:
            self._correlation = torch.as_tensor(np.array(correlation, dtype=float))
            if not bool((self._correlation > 0).all()):
                raise ValueError(
                    f"Observations got correlation={correlation!r}: wanted the time after which "
                    "errors are hardly correlated any more, a positive number; None without."
                )
        before = _values_before(columns)
        self._before, self._is_first = torch.tensor(before), torch.tensor(before < 0)
        self._since = torch.tensor(np.where(before < 0, 1.0, times - times[before]))


def _as_model(scale: Any) -> ErrorModel:
    if isinstance(scale, ErrorModel):
        return scale
    check_parameter("Observations", scale)
    return ErrorModel(lambda model, factor: factor, scale)


def _values_before(columns: np.ndarray) -> np.ndarray:
    """The number of the last value before each of the same column, -1 for the first."""
    before = np.full(len(columns), -1)
    order = np.argsort(columns, kind="stable")
    same = columns[order][1:] == columns[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before


def _check_size(what: str, array: np.ndarray, n_columns: int) -> None:
    if array.size not in (1, n_columns):
        raise ValueError(
            f"Observations: a {what} has shape {array.shape}: wanted one number, or {n_columns}, "
            "one for each number that is observed at a time."
        )


class Residuals(nn.Module):
    """Weighted residuals of the model's values, which come in parts, and parameters.

    Parameters
    ----------
    errors
        The errors.
    n_parts
        The number of parts.
    """

    def __init__(self, errors: Errors, n_parts: int):
        super().__init__()
        self._errors, self._n_parts = errors, n_parts

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._errors.residuals(*self._split(tensors))

    def _split(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.cat(tensors[: self._n_parts]), tensors[self._n_parts :]


class Logarithms(Residuals):
    """Logarithms of the errors' sizes."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._errors.logarithms(*self._split(tensors))
