"""Times of data as numbers in the model's unit."""

from __future__ import annotations

from typing import Any

import numpy as np

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# Those of CF conventions (UDUNITS) beside the short ones.
WORDS = {
    **{word: "s" for word in ("s", "sec", "secs", "second", "seconds")},
    **{word: "min" for word in ("min", "mins", "minute", "minutes")},
    **{word: "h" for word in ("h", "hr", "hrs", "hour", "hours")},
    **{word: "d" for word in ("d", "day", "days")},
}


def as_numbers(times: Any, origin: Any, unit: str) -> Any:
    """Times since an origin, where they are dates; numbers as they are.

    Raises
    ------
    ValueError
        If there are dates and no origin, or the unit is not known.
    """
    array = np.asarray(times)
    is_dates = array.dtype.kind == "M" or (array.dtype.kind == "O" and _are_dates(array))
    if not is_dates:
        if origin is not None:
            raise ValueError(
                f"Observations got origin={origin!r}, but the times are numbers: leave it out, or "
                "give the times as dates (numpy.datetime64)."
            )
        return times
    if origin is None:
        raise ValueError(
            "Observations got dates as times, and a model's time is a number: give its zero, as in "
            "origin='2020-01-01', and its unit, as in time_unit='d'."
        )
    since = array.astype("datetime64[ns]") - as_date(origin)
    return since / np.timedelta64(1, "s") / seconds_in(unit)


def seconds_in(unit: str) -> float:
    """The seconds in a unit of time."""
    if WORDS.get(unit) is None:
        raise ValueError(f"Observations got time_unit={unit!r}: wanted one of {list(SECONDS)}.")
    return SECONDS[WORDS[unit]]


def as_date(origin: Any) -> np.datetime64:
    """A date that numpy or the standard library knows, or its text; in UTC."""
    try:
        return np.datetime64(origin, "ns")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Observations got origin={origin!r}: wanted a date, as in '2020-01-01' or "
            "'2020-01-01T06:00'."
        ) from error


def _are_dates(array: np.ndarray) -> bool:
    return bool(array.size) and all(hasattr(t, "year") and hasattr(t, "day") for t in array.flat)
