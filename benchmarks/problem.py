"""The problem that all methods solve: -div(kappa(u) grad u) = 10 with kappa a 1-30-30-1 network."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from firedrake import *

import femnn

DEGREE = 4
OPTIONS = {"snes_rtol": 1e-8}


def network():
    return femnn.MLP(1, 30, 30, 1, output="softplus", seed=1)


def discretise(n):
    """P1 on the unit square: unknown, test function, boundary condition, observations."""
    mesh = UnitSquareMesh(n, n)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    observed = Function(V).interpolate(sin(pi * x) * sin(pi * y))
    return Function(V, name="u"), TestFunction(V), DirichletBC(V, 0, "on_boundary"), observed


def other_weights(count, size):
    """Weights as an optimiser visits them: each a small step from the last."""
    rng = np.random.default_rng(0)
    first = femnn.Weights.of(network()).vector
    return [first + 1e-3 * rng.standard_normal(size) * (i + 1) for i in range(count)]


def clock(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def best(times):
    return min(times), statistics.median(times)


def peak_memory():
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def empty_caches():
    """The environment of a process that starts with empty kernel caches."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            "PYOP2_CACHE_DIR": f"{folder}/pyop2",
            "FIREDRAKE_TSFC_KERNEL_CACHE_DIR": f"{folder}/tsfc",
            "XDG_CACHE_HOME": f"{folder}/xdg",
        }
        for path in caches.values():
            Path(path).mkdir()
        yield {**os.environ, **caches}


def run_fresh(module, *args):
    """Run a benchmark module in a process with empty kernel caches; its printed JSON line."""
    with empty_caches() as environment:
        return run_module(module, *args, **environment)


def run_module(module, *args, **environment):
    """Run a benchmark module in a process of its own; its printed JSON line."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, args)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]
