"""The inversion: pumping tests as members of an ensemble, a fit that survives, its posterior."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint import ReducedFunctional, continue_annotation, pause_annotation
from mpi4py import MPI

import femnn
from femnn.tape.counts import Solves

from .aquifer import NOISE, Campaign, Test, make_mesh
from .model import Site
from .unknowns import Aquifer

MIB = 1024  # of what getrusage counts


@dataclass
class Costs:
    """Seconds and memory by part, of the slowest and the largest rank."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        comm = MPI.COMM_WORLD
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
        self.seconds[part] = comm.allreduce(time.monotonic() - began, op=MPI.MAX)
        self.memory[part] = comm.allreduce(used, op=MPI.MAX)


def heads(aquifer: Aquifer, site: Site, test: Test) -> fd.Function:
    """The head in a test, by an aquifer as it is; recorded where annotation is on."""
    return site.heads(test, fd.exp(aquifer.log_K(site.ground)), aquifer.leakage())


class Inversion:
    """Pumping tests and what is to be found from them.

    Parameters
    ----------
    campaign
        Tests and readings.
    aquifer
        The unknowns.
    size
        Cells along each side, and layers of cells.
    together
        Whether all ranks compute each test, on one mesh; each rank has tests of its own otherwise.
    site
        That mesh.
    """

    def __init__(
        self,
        campaign: Campaign,
        aquifer: Aquifer,
        size: tuple[int, int],
        site: Site,
        together: bool,
    ):
        self.campaign, self.aquifer, self.site = campaign, aquifer, site
        self.solves = Solves()
        self._size, self._together = size, together
        self.functional, self.predictions = self._record()

    def _record(self) -> tuple[ReducedFunctional, dict[Test, Any]]:
        """The posterior's functional, and the heads of held-out tests beside it."""
        comm = MPI.COMM_WORLD
        continue_annotation()
        members = femnn.ensemble(
            self._misfit,
            self.campaign.tests,
            self.aquifer.controls,
            ranks_per_member=comm.size if self._together else 1,
        )
        J = members.functional
        for prior in self.aquifer.priors:
            J += prior.energy()
        ports = femnn.Stations(self.site.mesh, self.campaign.ports)
        predictions = {t: ports(self.heads(self.site, t)) for t in self.campaign.held_out}
        pause_annotation()
        return ReducedFunctional(J, members.controls), predictions

    def _misfit(self, test: Test, comm: MPI.Comm) -> Any:
        site = self.site if self._together else Site(make_mesh(*self._size, comm))
        ports = femnn.Stations(site.mesh, self.campaign.ports)
        data = femnn.Observations(ports, self.campaign.readings[test], NOISE)
        return data.misfit(self.heads(site, test))

    def heads(self, site: Site, test: Test) -> fd.Function:
        """The head in a test, by the present unknowns; recorded where annotation is on."""
        return heads(self.aquifer, site, test)

    def balance(self, test: Test) -> dict[str, float]:
        """The water balance of a test in m3/d."""
        K, leakage = fd.exp(self.aquifer.log_K(self.site.ground)), self.aquifer.leakage()
        return self.site.balance(self.heads(self.site, test), test, K, leakage)

    def fit(self, iterations: int, folder: Path | None, resume: bool) -> femnn.FitResult:
        """Fit; where a folder is given, what it has reached is kept there."""
        kept: dict[str, Any] = {} if folder is None else {"checkpoint": folder, "resume": resume}
        result = femnn.fit(
            self.functional, "gauss-newton", maxiter=iterations, ftol=1e-4, progress=False, **kept
        )
        self.solves += result.solves
        return result

    def posterior(self, rounds: int) -> femnn.LaplacePosterior:
        """The posterior; where rounds are given, with the precisions of the largest evidence."""
        if not rounds:
            return femnn.laplace(self.functional)
        result = femnn.fit_with_evidence(self.functional, rounds=rounds, maxiter=5, progress=False)
        self.solves += result.solves
        return result.posterior

    def errors(self) -> np.ndarray:
        """Predicted minus read heads of the held-out tests, in metres."""
        found = []
        for test in self.campaign.held_out:
            ports = femnn.Stations(self.site.mesh, self.campaign.ports)
            h = self.heads(self.site, test)
            found.append(np.asarray(ports(h)) - self.campaign.readings[test])
        return np.concatenate(found)
