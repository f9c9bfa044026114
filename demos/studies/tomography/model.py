"""Steady flow to a well, with a conductivity and a river that are networks, fields or known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint import stop_annotating

import femnn

from .aquifer import (
    BED,
    EAST,
    NOISE,
    RECHARGE,
    RIVER_STAGE,
    WELL_RADIUS,
    WEST,
    Campaign,
    Geology,
    Test,
    make_mesh,
    true_leakage,
    true_log_K,
)

SCREEN = 8.0  # half the height of a well's screen, m
DIRECT = 6000  # unknowns up to which a factorisation is faster than multigrid
LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
MULTIGRID = {
    "ksp_type": "cg",
    "ksp_rtol": 1e-9,
    "pc_type": "gamg",
    "pc_gamg_threshold": 0.02,
    "mg_levels_ksp_type": "richardson",
    "mg_levels_pc_type": "sor",
}
NEWTON = {"snes_rtol": 1e-9, "snes_atol": 1e-8, "snes_linesearch_type": "l2"}


class Site:
    """Mesh, spaces and the ground, the same for all tests on these ranks.

    Parameters
    ----------
    mesh
        The mesh.
    """

    def __init__(self, mesh: fd.MeshGeometry):
        self.mesh, self.ground = mesh, Geology(mesh)
        self.space = fd.FunctionSpace(mesh, "Q", 1)
        self.options = NEWTON | (LU if self.space.dim() <= DIRECT else MULTIGRID)

    def well(self, test: Test) -> Any:
        """What a well takes from a cubic metre, in 1/d; over all of space it is the rate."""
        g = self.ground
        across = (g.x - test.x) ** 2 + (g.y - test.y) ** 2
        shape = fd.exp(-across / (2 * WELL_RADIUS**2)) * fd.exp(
            -((g.z - test.z) ** 2) / (2 * SCREEN**2)
        )
        with stop_annotating():
            total = fd.assemble(shape * fd.dx(degree=4))
        return fd.Constant(test.rate / total) * shape

    def residual(self, h: fd.Function, test: Test, K: Any, leakage: Any) -> Any:
        """Darcy's flow, with what comes from above and what the well takes.

        ``leakage(difference)`` is an expression for the river's loss.
        """
        v, g = fd.TestFunction(self.space), self.ground
        F = K * fd.inner(fd.grad(h), fd.grad(v)) * fd.dx - RECHARGE * v * fd.ds_t
        F -= g.river(leakage(RIVER_STAGE - h)) * v * fd.ds_t(degree=BED)
        return F + self.well(test) * v * fd.dx(degree=4) if test.rate else F

    def sides(self) -> list[fd.DirichletBC]:
        return [fd.DirichletBC(self.space, WEST, 1), fd.DirichletBC(self.space, EAST, 2)]

    def start(self) -> fd.Function:
        """The head that falls evenly from west to east."""
        fall = WEST + (EAST - WEST) * self.ground.x / 1000
        return fd.Function(self.space, name="head").interpolate(fall)

    def heads(self, test: Test, K: Any, leakage: Any) -> fd.Function:
        """The head in a test, recorded where annotation is on."""
        h = self.start()
        F = self.residual(h, test, K, leakage)
        femnn.solve(F == 0, h, self.sides(), solver_parameters=self.options)
        return h

    def balance(self, h: fd.Function, test: Test, K: Any, leakage: Any) -> dict[str, float]:
        """The water balance in m3/d, and what is not accounted for."""
        F, g = self.residual(h, test, K, leakage), self.ground
        reaction = femnn.assemble(F)  # zero but at the sides' nodes, whose inflow it is
        with reaction.dat.vec_ro as vector:
            sides = vector.sum()
        parts = {
            "sides": sides,
            "recharge": fd.assemble(fd.Constant(RECHARGE) * fd.ds_t(domain=self.mesh)),
            "river": femnn.assemble(g.river(leakage(RIVER_STAGE - h)) * fd.ds_t(degree=BED)),
            "well": -test.rate,
        }
        inner = fd.Cofunction(self.space.dual()).assign(reaction)
        for bc in self.sides():
            bc.zero(inner)
        with inner.dat.vec_ro as vector:
            lost = vector.norm(fd.PETSc.NormType.NORM_1)
        return parts | {"not accounted for": lost}


def read_truth(found: Campaign, size: Sequence[int], seed: int) -> None:
    """Readings of all tests on this rank, by elements of second order, with errors."""
    cells, layers = size
    site = Site(make_mesh(cells, layers, MPI.COMM_SELF))
    site.space = fd.FunctionSpace(site.mesh, "Q", 2)
    site.options = NEWTON | (LU if site.space.dim() <= 4 * DIRECT else MULTIGRID)
    K = fd.exp(true_log_K(site.ground))
    stations = femnn.Stations(site.mesh, found.ports)
    for i, test in enumerate([*found.tests, *found.held_out]):
        h = site.start()
        F = site.residual(h, test, K, true_leakage)
        fd.solve(F == 0, h, site.sides(), solver_parameters=site.options)
        errors = np.random.default_rng((seed, i)).normal(0, NOISE, len(found.ports))
        found.readings[test] = np.asarray(stations(h)) + errors
