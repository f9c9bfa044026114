"""How near what was found is to the truth, and how often its bands hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI

import femnn
from demos.studies.common import Z90

from .aquifer import (
    GUESS,
    LENGTH,
    NOISE,
    RIVER_AT,
    RIVER_STAGE,
    THICKNESS,
    true_leakage,
    true_log_K,
)
from .inversion import Inversion
from .unknowns import NetworkAquifer, inputs_of


class Conductivity:
    """log K cell by cell: by the unknowns, and the truth.

    Parameters
    ----------
    inversion
        The inversion.
    """

    def __init__(self, inversion: Inversion):
        self._inversion, self.ground = inversion, inversion.site.ground
        self.space = fd.FunctionSpace(inversion.site.mesh, "DQ", 0)
        self._comm = inversion.site.mesh.comm
        self.truth = self.cells(true_log_K(self.ground))
        self.layer = np.argmax([f.dat.data_ro for f in self.ground.layer], axis=0)

    def cells(self, expression: Any) -> np.ndarray:
        """A mean over each cell that this rank has."""
        v = fd.TestFunction(self.space)
        total = femnn.assemble(expression * v * fd.dx(degree=2)).dat.data_ro
        return total / fd.assemble(v * fd.dx).dat.data_ro

    def present(self) -> np.ndarray:
        """log K of the unknowns as they are."""
        return self.cells(self._inversion.aquifer.log_K(self.ground))

    def of_guess(self) -> list[float]:
        """The error of what both kinds of unknowns begin with, in each layer."""
        return [self.rms((self.truth - GUESS[i])[self.layer == i]) for i in range(3)]

    def rms(self, difference: np.ndarray) -> float:
        """The root mean square over all ranks' cells."""
        both = np.array([np.sum(difference**2), difference.size])
        total = self._comm.allreduce(both, op=MPI.SUM)
        return float(np.sqrt(total[0] / total[1]))

    def spread(self, posterior: femnn.LaplacePosterior, draws: int) -> np.ndarray:
        """The standard deviation of each cell's log K.

        A network is taken as linear in its weights around the best ones; fields are drawn.
        """
        aquifer = self._inversion.aquifer
        if isinstance(aquifer, NetworkAquifer):
            inputs = [self.cells(x) for x in inputs_of(self.ground)]
            return posterior.law(aquifer.conductivity, *inputs).std
        found = []
        for row in posterior.sample(draws):
            self._assign(posterior.values(row))
            found.append(self.present())
        self._assign(posterior.values(posterior.mean))
        return np.std(found, axis=0)

    def _assign(self, values: list[Any]) -> None:
        for control, value in zip(self._inversion.aquifer.controls, values, strict=True):
            control.assign(value)


def judge_conductivity(
    found: Conductivity, std: np.ndarray | None = None
) -> dict[str, float | list[float]]:
    """Errors of log K in all cells and in each layer; with bands what share they hold."""
    error = found.present() - found.truth
    by_layer = [found.rms(error[found.layer == i]) for i in range(3)]
    row: dict[str, float | list[float]] = {"log K": found.rms(error), "by layer": by_layer}
    if std is not None:
        inside = (np.abs(error) <= Z90 * std).astype(float)
        row["coverage of log K"] = found.rms(inside) ** 2
        row["std of log K"] = found.rms(std)
    return row


def judge_leakage(
    inversion: Inversion, posterior: femnn.LaplacePosterior, seen: tuple[float, float]
) -> dict[str, float]:
    """The relative error of the leakage over the differences that were seen, and its band."""
    line = np.linspace(*seen, 200)
    truth, band = true_leakage(line), posterior.law(inversion.aquifer.networks["leakage"], line)
    return {
        "leakage": float(np.linalg.norm(band.mean - truth) / np.linalg.norm(truth)),
        "coverage of leakage": float(np.mean(np.abs(band.mean - truth) <= Z90 * band.std)),
    }


def visited(inversion: Inversion) -> tuple[float, float]:
    """The least and the largest difference of stage and head on the river's bed in all tests."""
    along = np.linspace(0.02, 0.98, 40) * LENGTH
    points = [(x, RIVER_AT + dy, 0.999 * THICKNESS) for x in along for dy in (-30.0, 0.0, 30.0)]
    bed = femnn.Stations(inversion.site.mesh, points)
    heads = [np.asarray(bed(inversion.heads(inversion.site, t))) for t in inversion.campaign.tests]
    return float(RIVER_STAGE - np.max(heads)), float(RIVER_STAGE - np.min(heads))


@dataclass(frozen=True)
class Heads:
    """The heads of all held-out tests: read, predicted, and how sure they are, in metres."""

    read: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def judge(self) -> dict[str, float]:
        """Errors, and how many readings the bands hold."""
        error = self.mean - self.read
        return {
            "held out": float(np.sqrt(np.mean(error**2))),
            "coverage held out": float(np.mean(np.abs(error) <= Z90 * self.std)),
            "std held out": float(np.sqrt(np.mean(self.std**2))),
        }


def predict(inversion: Inversion, posterior: femnn.LaplacePosterior) -> Heads:
    """The held-out tests by the posterior.  Collective."""
    bands = [posterior.predict(value, noise=NOISE) for value in inversion.predictions.values()]
    return Heads(
        np.concatenate([inversion.campaign.readings[test] for test in inversion.predictions]),
        np.concatenate([band.mean for band in bands]),
        np.concatenate([band.std for band in bands]),
    )
