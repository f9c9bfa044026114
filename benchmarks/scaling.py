"""What more ranks cost: seconds on the cores there are, and what does not depend on cores.

Messages, bytes and reductions of a solve, its gradient, a Hessian action and a Gauss-Newton action
are counted on more ranks than there are cores: PETSc's own (with Firedrake's halos) by its log,
femnn's by the communicator that the functions of ``femnn.parallel`` get.  Each number of ranks
runs in processes of its own.
"""

import json
import os

import numpy as np

from benchmarks.speedup import run_on_ranks

RANKS = (1, 2, 4, 8, 16)
STATIONS = 300


def measure(repeats, ranks=RANKS, n=64, timed=128, stations=STATIONS):
    """Counts on each number of ranks, clocks on the cores there are, and the model's times."""
    rows = [run_on_ranks(r, "on_ranks", "count", n, stations) for r in ranks]
    vectors = [row.pop("vectors") for row in rows]
    for row, own in zip(rows, vectors, strict=True):
        row["errors"] = {k: _error(own[k], vectors[0][k]) for k in own}
    cores = len(os.sched_getaffinity(0))
    most = [r for r in ranks if r <= cores]
    sizes = [[(timed, r), (round(timed * np.sqrt(r)), r)] for r in most]
    sizes = [pair for k, pairs in enumerate(sizes) for pair in (pairs if k else pairs[:1])]
    clock = run_on_ranks(most[-1], "on_ranks", "clocks", json.dumps(sizes), repeats, stations)
    finer = run_on_ranks(1, "on_ranks", "count", 2 * n, stations)
    run = {
        "counts": rows,
        "clocks": clock,
        "bytes a point": _bytes_of_a_point(rows[0], finer),
        "mesh": run_on_ranks(min(4, ranks[-1]), "on_ranks", "mesh", 5 * n),
    }
    return run | {"model": model(run)}


def _error(vector, expected):
    """The relative difference of two lists of numbers."""
    return float(np.linalg.norm(np.subtract(vector, expected)) / np.linalg.norm(expected))


def _bytes_of_a_point(row, finer):
    grown = finer["memory"]["all"] - row["memory"]["all"]
    return grown * 2**20 / (finer["points"][1] - row["points"][1])


def model(run, ranks=1000, points=1e8, alpha=2e-6, beta=1e10):
    """Seconds of each piece of work on a machine of many ranks, by what they are spent on.

    Parameters
    ----------
    run
        What was measured, of a problem in the plane.
    ranks, points
        Of the machine, and of the network in all.
    alpha, beta
        Seconds of a message, and bytes in a second.

    Returns
    -------
    dict
        For each piece of work ``computing``, ``messages``, ``bytes`` and ``reductions``.
    """
    row, alone = run["counts"][-1], run["clocks"]["rows"][0]
    grows = points / ranks / row["points"][1]
    # A level of multigrid has a tenth of the nodes of the one above; a halo is a root of them.
    levels = np.log10(row["nodes"] * points / sum_of_points(row))
    deeper = levels / np.log10(row["nodes"])
    found = {}
    for name in alone["processor"]:
        n = row["counts"][name]
        found[name] = {
            "computing": alone["processor"][name] * points / ranks / alone["points"],
            "messages": n["messages"] * deeper * alpha,
            "bytes": n["bytes"] * np.sqrt(grows) / beta + n["own bytes"] * np.log2(ranks) / beta,
            "reductions": (n["reductions"] + n["own calls"]) * np.log2(ranks) * alpha,
        }
    return found


def sum_of_points(row):
    """The points of all ranks: those of each are about the same."""
    return row["ranks"] * 0.5 * sum(row["points"])


def report(run):
    """Print what was measured."""
    print("\n(k) Communication, of the rank that has most, and reductions; own: calls of femnn's")
    print(
        f"    {'':<28}{'ranks':>6}{'messages':>10}{'KiB':>8}{'reductions':>12}{'own':>5}{'KiB':>8}"
        f"{'cycles':>8}"
    )
    for name in run["counts"][0]["counts"]:
        for row in run["counts"]:
            n = row["counts"][name]
            print(
                f"    {name:<28}{row['ranks']:>6}{n['messages']:>10.0f}{n['bytes'] / 1024:>8.0f}"
                f"{n['reductions']:>12.0f}{n['own calls']:>5}{n['own bytes'] / 1024:>8.1f}"
                f"{n['cycles']:>8}"
            )
    for row in run["counts"]:
        low, high = row["points"]
        memory = ", ".join(f"{name} {mib:.0f}" for name, mib in row["memory"].items())
        print(
            f"    {row['ranks']:>2} ranks: {low} to {high} points each; MiB: {memory}; gradient "
            f"differs by {row['errors']['gradient']:.0e}"
        )
    _report_clocks(run["clocks"])
    mesh = run["mesh"]
    print(f"    a point takes {run['bytes a point']:.0f} bytes of memory")
    for name in ("at once", "refined"):
        shown = ", ".join(f"{mib:.0f}" for mib in mesh[name])
        print(f"    a mesh of {mesh['cells']} cells, {name}: MiB by rank {shown}")
    for name, parts in run["model"].items():
        shown = ", ".join(f"{what} {1e3 * seconds:.1f}" for what, seconds in parts.items())
        print(f"    1000 ranks, 1e8 points, {name}, ms: {shown}")


def _report_clocks(clock):
    first = clock["rows"][0]
    print(f"    a reduction takes {1e6 * clock['latency']:.1f} microseconds here, at best")
    for row in clock["rows"]:
        for kind in ("clock", "processor"):
            shown = ", ".join(f"{k} {v / first[kind][k]:.2f}" for k, v in row[kind].items())
            print(
                f"    {row['cells']} on {row['ranks']}, {kind} over {first['cells']} on 1: {shown}"
            )
