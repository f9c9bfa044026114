"""SciPy's L-BFGS-B, which goes on after steps that were rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.optimize

from femnn.training.result import Outcome, Stop
from femnn.training.run import Optimiser, Run
from femnn.training.settings import check_whole

# A loss that is lower by less than this, relative to it, is not lower: warm starts alone move it.
ROUNDING = 1e-10

OPTIONS = ("maxcor", "maxfun", "maxls")


def minimise(run: Run) -> Outcome:
    """Run L-BFGS-B, again from the best point where a rejected step has ended it."""
    while True:
        best, rejected = run.loss.best, run.loss.rejected
        outcome = scipy.optimize.minimize(
            run,
            best.vector,
            jac=True,
            method="L-BFGS-B",
            callback=lambda vector: _accept(run, vector),
            options=_options(run),
        )
        ended = _why(run, str(outcome.message))
        if ended is not None:
            return ended
        # A rejected step can end a line search early: go on from the best point, afresh.
        fell = best.loss - run.loss.best.loss > ROUNDING * abs(best.loss)
        if run.loss.rejected == rejected or not fell:
            return Outcome("no progress", "The line search found no lower loss.")


def check(options: Mapping[str, Any]) -> None:
    """All options are whole numbers of at least one."""
    for name, value in options.items():
        check_whole(f"options[{name!r}]", value, least=1)


def _accept(run: Run, vector: np.ndarray) -> None:
    """Report an iteration, and stop where the loss hardly falls."""
    ftol, before = run.settings.ftol, run.history[-1].loss
    run.accept(vector)
    if ftol > 0 and before - run.loss.last.loss <= ftol * abs(before):
        raise Stop("converged", f"Converged: the loss fell by less than {ftol} of itself.")


def _options(run: Run) -> dict:
    return {
        "maxiter": run.left,
        "maxfun": max(1, 10 * run.settings.maxiter - run.loss.evaluations),
        "gtol": run.settings.gtol,
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
        return run.small_gradient()
    return None


LBFGS = Optimiser(minimise, uses=("ftol",), options=OPTIONS, check=check)
