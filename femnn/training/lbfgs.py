"""SciPy's L-BFGS-B, which goes on after steps that were rejected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import scipy.optimize

from femnn.training.coordinates import Coordinates
from femnn.training.result import Outcome
from femnn.training.run import Optimiser, Run
from femnn.training.settings import check_whole

OPTIONS = ("maxcor", "maxfun", "maxls")


def minimise(run: Run) -> Outcome:
    """Run L-BFGS-B, again from the best point where a rejected step has ended it."""
    return run.restarted(partial(_attempt, run, Coordinates(run)))


def check(options: Mapping[str, Any]) -> None:
    """All options are whole numbers of at least one."""
    for name, value in options.items():
        check_whole(f"options[{name!r}]", value, least=1)


def _attempt(run: Run, coordinates: Coordinates) -> Outcome | None:
    bounds = coordinates.bounds
    outcome = scipy.optimize.minimize(
        coordinates,
        coordinates.best(),
        jac=True,
        method="L-BFGS-B",
        bounds=None if bounds is None else scipy.optimize.Bounds(bounds.lower, bounds.upper),
        callback=coordinates.accept,
        options=_options(run),
    )
    return _why(run, str(outcome.message))


def _options(run: Run) -> dict:
    return {
        "maxiter": run.left,
        "maxfun": max(1, 10 * run.settings.maxiter - run.loss.evaluations),
        "gtol": 0.0,  # tested by the run, in the controls' own units
        "ftol": 0.0,  # SciPy's is a fraction of max(loss, 1), whatever the loss's unit
        "maxcor": 20,
        **run.settings.options,
    }


def _why(run: Run, message: str) -> Outcome | None:
    """Why SciPy has ended; ``None`` where its line search has failed."""
    if "ITERATIONS" in message:
        return run.out_of_iterations()
    if "EVALUATIONS" in message:
        return Outcome("evaluations", f"Stopped after {run.loss.evaluations} evaluations.")
    if "PROJECTED GRADIENT" in message:
        return run.small_gradient().outcome
    return None


LBFGS = Optimiser(minimise, uses=("ftol",), options=OPTIONS, check=check, takes_bounds=True)
