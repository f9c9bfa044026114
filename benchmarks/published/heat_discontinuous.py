"""The 1-D heat equation with a discontinuous k(x): as ``heat``, with another truth."""

import sys

from benchmarks.published import framework
from benchmarks.published.heat import COARSE, WEIGHTED, Settings, figure, report, run

__all__ = ["NAME", "SETTINGS", "TITLE", "figure", "report", "run"]

NAME = "heat_discontinuous"
TITLE = "The heat equation, discontinuous k"

SETTINGS = {
    "paper": Settings(
        truth="discontinuous",
        seeds=(1, 2, 3, 4, 5),
        iterations=10_000,
        newton_evaluations=10_000,
        iterations_both=10_000,
        pinn_seeds=tuple(range(1, 11)),
        pinn_weights=(WEIGHTED,),
        pinn_iterations=(100_000,),
    ),
    "short": Settings(
        truth="discontinuous",
        seeds=(1, 2, 3, 4, 5),
        iterations=10_000,
        seconds=20.0,
        newton_evaluations=10_000,
        newton_seconds=20.0,
        iterations_both=20,
        seed_both=2,
        pinn_seeds=(1, 2, 3, 4, 5),
        pinn_weights=(WEIGHTED,),
        pinn_iterations=(100_000,),
        pinn_seconds=60.0,
    ),
    "reduced": Settings(
        truth="discontinuous",
        seeds=(2,),
        iterations=40,
        newton_evaluations=60,
        iterations_both=2,
        seed_both=2,
        pinn_seeds=(1,),
        pinn_weights=(WEIGHTED,),
        pinn_iterations=(40,),
        **COARSE,
    ),
}


if __name__ == "__main__":
    framework.main(sys.modules[__name__])
