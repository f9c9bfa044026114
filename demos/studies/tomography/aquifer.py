"""The aquifer: its layers, the fault, wells, and the truth that is to be found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from mpi4py import MPI

LENGTH, THICKNESS = 1000.0, 60.0  # m
# Tops of the lower aquifer and of the aquitard above it, west of the fault; the upper aquifer is
# what is left.  East of it all is lower by the throw.  Cells of 10 and of 5 m end at all of these.
INTERFACES, THROW = (20.0, 30.0), 10.0  # m
RIVER_AT, RIVER_WIDTH, RIVER_STAGE = 250.0, 50.0, 61.0  # m
BED = 3  # degree of the quadrature rule on the bed
WEST, EAST = 62.0, 60.0  # heads at x = 0 and x = LENGTH, m
RECHARGE = 5e-4  # m/d
WELL_RADIUS = 45.0  # of the Gaussian by which a well's screen is smeared, m
UPPER, LOWER = 50.0, 7.0  # heights of screens and ports, m

LOG_K = (2.3, -2.5, 1.6)  # the truth of lower aquifer, aquitard, upper aquifer; K in m/d
GUESS = (1.0, -1.0, 1.0)  # what one would say of sand, clay and sand
NOISE = 0.02  # of a reading, m


@dataclass(frozen=True)
class Test:
    """A pumping test, or the state without pumping.

    Attributes
    ----------
    x, y, z
        The middle of the pumped screen, in metres.
    rate
        What is pumped, in cubic metres a day.
    """

    x: float = 0.0
    y: float = 0.0
    z: float = LOWER
    rate: float = 0.0


@dataclass
class Campaign:
    """The tests, the ports where heads are read, and the readings.

    Attributes
    ----------
    tests, held_out
        Tests that are fitted, and those that are not.
    ports
        Shape ``(n_ports, 3)``, in metres.
    readings
        Of each test, shape ``(n_ports,)``, in metres.
    """

    tests: list[Test]
    held_out: list[Test]
    ports: np.ndarray
    readings: dict[Test, np.ndarray] = field(default_factory=dict)


def campaign(n_tests: int, n_wells: int, seed: int) -> Campaign:
    """Wells at random, of which some are pumped in turn in the lower and the upper aquifer."""
    random = np.random.default_rng(seed)
    wells = random.uniform(120, LENGTH - 120, (n_wells, 2))
    pumped = random.uniform(150, LENGTH - 150, (n_tests + 2, 2))
    screens = ((LOWER, 900.0), (UPPER, 600.0))
    tests = [Test(x, y, *screens[i % 2]) for i, (x, y) in enumerate(pumped.tolist())]
    ports = np.array([(x, y, z) for x, y in wells for z in (LOWER, UPPER)])
    return Campaign([Test(), *tests[:n_tests]], tests[n_tests:], ports)


def make_mesh(n: int, layers: int, comm: MPI.Comm) -> fd.MeshGeometry:
    """``n`` by ``n`` by ``layers`` hexahedra."""
    base = fd.SquareMesh(n, n, LENGTH, quadrilateral=True, comm=comm)
    return fd.ExtrudedMesh(base, layers, layer_height=THICKNESS / layers)


class Geology:
    """What is known of the ground: which layer a cell is of, and how near the fault is.

    Parameters
    ----------
    mesh
        The mesh.

    Attributes
    ----------
    x, y, z
        Coordinates, in metres.
    layer : list of firedrake.Function
        Of each cell the shares of lower aquifer, aquitard and upper aquifer: one and zeros.
    near_fault
        One on the fault, zero 100 m away from it.
    """

    def __init__(self, mesh: fd.MeshGeometry):
        self.x, self.y, self.z = fd.SpatialCoordinate(mesh)
        distance = self.x - 480 - 0.15 * self.y
        self.near_fault = fd.exp(-((distance / 45) ** 2))
        drop = fd.conditional(distance > 0, THROW, 0.0)
        height = self.z + drop
        low, high = INTERFACES
        above = [fd.conditional(height > level, 1.0, 0.0) for level in (low, high)]
        shares = (1 - above[0], above[0] - above[1], above[1])
        constant = fd.FunctionSpace(mesh, "DQ", 0)
        names = ("lower aquifer", "aquitard", "upper aquifer")
        self.layer = [
            fd.Function(constant, name=name).interpolate(share)
            for name, share in zip(names, shares, strict=True)
        ]

    def river(self, height: Any = 1.0) -> Any:
        """A share of something on the top: one in the middle of the river's bed."""
        return height * fd.exp(-(((self.y - RIVER_AT) / RIVER_WIDTH) ** 2))


def true_log_K(ground: Geology) -> Any:
    """The logarithm of the conductivity in m/d: by layer, varying, low along the fault."""
    x, y = (2 * np.pi * c / LENGTH for c in (ground.x, ground.y))
    varying = (
        0.5 * fd.sin(x) * fd.cos(0.7 * y),
        0.3 * fd.cos(x + y),
        0.6 * fd.cos(0.8 * x - 0.5) * fd.sin(y),
    )
    by_layer = zip(LOG_K, varying, ground.layer, strict=True)
    return sum((mean + change) * share for mean, change, share in by_layer) - (
        1.5 * ground.near_fault
    )


def true_leakage(difference: Any) -> Any:
    """What the river gives to the aquifer, in m/d, by its stage minus the head, in metres.

    A bed that is clogged gives no more than a certain amount, however low the head is.
    """
    tanh = np.tanh if isinstance(difference, np.ndarray) else ufl.tanh
    return 0.02 * tanh(difference / 0.8) + 0.002 * difference
