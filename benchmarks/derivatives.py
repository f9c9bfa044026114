"""What derivatives cost: a Hessian action, a gradient, and the memory of many gradients.

Run as a module, it prints the memory in use after 100 and after more gradients, as JSON: the
memory is that of a process which does nothing else.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from benchmarks.methods import WithFemnn
from benchmarks.problem import clock, network, other_weights, run_fresh
from femnn import Weights

EARLY = 100


def measure(repeats):
    return {**costs(128, repeats), "memory": memory()}


def costs(n, repeats):
    """Least times of a solve, a gradient and a Hessian action, called in turn, as ratios."""
    method = WithFemnn(n)
    size = len(Weights.of(network()).vector)
    direction = np.random.default_rng(2).standard_normal(size)
    times = {"forward": [], "gradient": [], "Hessian action": []}
    for w in other_weights(repeats + 1, size):
        times["forward"].append(clock(method.value, w)[0])
        times["gradient"].append(clock(method.gradient)[0])
        seconds, action = clock(method.Jhat.hessian, method.weights.like(direction))
        times["Hessian action"].append(seconds)
    least = {name: min(t[1:]) for name, t in times.items()}
    return {
        "cells": f"{n} x {n}",
        "seconds": least,
        "gradient over forward": least["gradient"] / least["forward"],
        "Hessian action over gradient": least["Hessian action"] / least["gradient"],
        "Hessian error": hessian_error(method, w, direction, action.vector),
    }


def hessian_error(method, w, direction, action, h=1e-4):
    """Relative error of a Hessian action, against central differences of the gradient."""
    gradients = []
    for sign in (1, -1):
        method.value(w + sign * h * direction)
        gradients.append(method.gradient())
    expected = (gradients[0] - gradients[1]) / (2 * h)
    return np.linalg.norm(action - expected) / np.linalg.norm(expected)


def memory(n=32, gradients=500):
    """Memory in use after 100 and after all gradients, in MiB."""
    used = json.loads(run_fresh("derivatives", n, gradients))
    return {"cells": f"{n} x {n}", **used}


def resident():
    """Memory in use by this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(n, gradients):
    method = WithFemnn(n)
    used = {}
    weights = other_weights(10, len(Weights.of(network()).vector))
    for i in range(1, gradients + 1):
        method.value(weights[i % len(weights)])
        method.gradient()
        if i in (EARLY, gradients):
            used[i] = resident()
    print(json.dumps({"gradients": list(used), "MiB": list(used.values())}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
