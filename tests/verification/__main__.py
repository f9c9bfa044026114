"""Print a table of the derivatives' accuracy, as the tests measure it."""

import logging

import torch

from tests.verification.derivatives import Accuracy, Recording
from tests.verification.problems import PROBLEMS

HEAD = (
    "| problem | control | gradient, here and away | tangent | Hessian, here and away | asymmetry |"
)


def main() -> None:
    """Print one table in Markdown for each place."""
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    place = None
    for problem in PROBLEMS:
        if problem.place != place:
            place = problem.place
            print(f"\n## {place.capitalize()}\n\n{HEAD}\n|{' --- |' * 6}")
        recording = Recording(problem)
        for control in problem.controls:
            print(row(problem, control, *recording.accuracy(control)), flush=True)


def row(problem, control: str, here: Accuracy, away: Accuracy) -> str:
    what = problem.__doc__.splitlines()[0].rstrip(".") if control == problem.controls[0] else ""
    return (
        f"| {what} | {control} "
        f"| {here.gradient:.2f} {away.gradient:.2f} | {max(here.tangent, away.tangent):.0e} "
        f"| {here.hessian:.2f} {away.hessian:.2f} | {max(here.asymmetry, away.asymmetry):.0e} |"
    )


if __name__ == "__main__":
    main()
