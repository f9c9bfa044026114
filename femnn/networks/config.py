"""What lets a module be built again from its configuration.  Needs torch only."""

from __future__ import annotations

from typing import Any, Self

import torch


class Configured:
    """A module that can be built again from its ``config``.

    ``config`` holds the constructor's arguments, of kinds that JSON can hold, and other
    modules where the module is built of them.
    """

    config: Any

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build the module that a configuration describes.

        Parameters
        ----------
        config
            The attribute ``config`` of a module of this class.

        Returns
        -------
        torch.nn.Module
            A new module, with the weights that the constructor draws.
        """
        options = dict(config)
        widths = options.pop("widths", ())
        if "dtype" in options:
            options["dtype"] = getattr(torch, options["dtype"])
        return cls(*widths, **options)


def generator_of(seed: int) -> torch.Generator:
    """A generator of random numbers of its own.

    Parameters
    ----------
    seed
        A whole number of at least 0.

    Raises
    ------
    ValueError
        If it is none.
    """
    if int(seed) != seed or seed < 0:
        raise ValueError(f"seed={seed!r}: wanted a whole number of at least 0.")
    return torch.Generator().manual_seed(int(seed))


def name_of(dtype: torch.dtype) -> str:
    """The name under which ``torch`` has this dtype."""
    return str(dtype).removeprefix("torch.")
