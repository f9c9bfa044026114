"""The benchmarks that need Firedrake: what measures, and what prints."""

import json

import numpy as np

from benchmarks import (
    coverage,
    derivatives,
    ensembles,
    leapfrog,
    memory,
    mosaic,
    scaling,
    splitting,
    steps,
    training,
    two_inputs,
    two_ranks,
)
from benchmarks.posterior import checkerboard, heat, long_chains, subsurface
from benchmarks.problem import run_fresh
from benchmarks.side_by_side import against_bare_torch, against_by_hand


def against_written_out(repeats, n=32):
    """First and later calls of femnn and of the network written out in UFL, and their memory."""
    kinds = ("femnn", "femnn, recorded guess", "written out")
    runs = {kind: json.loads(run_fresh("one_method", kind, n, repeats)) for kind in kinds}
    expected = np.array(runs["written out"].pop("gradient"))
    for kind in kinds[:2]:
        error = np.linalg.norm(np.array(runs[kind].pop("gradient")) - expected)
        runs[kind]["gradient error"] = error / np.linalg.norm(expected)
    return runs


def report_written_out(runs):
    theirs = runs["written out"]
    print("\n(a) The network written out in UFL, Firedrake's solver, pyadjoint; 32 x 32")
    print(f"    {'':<34}{'cold':>9}{'forward':>11}{'+ gradient':>12}{'memory':>11}")
    for kind, run in runs.items():
        print(
            f"    {kind:<34}{run['cold']:>7.1f} s{1e3 * run['forward']:>8.1f} ms"
            f"{1e3 * run['forward and gradient']:>9.1f} ms{run['memory']:>7.0f} MiB"
        )
    for kind in ("femnn", "femnn, recorded guess"):
        ours = runs[kind]
        ratios = [theirs[k] / ours[k] for k in ("cold", "forward", "forward and gradient")]
        print(
            f"    {'times faster: ' + kind:<34}{ratios[0]:>9.1f}{ratios[1]:>11.1f}"
            f"{ratios[2]:>12.1f}{theirs['memory'] / ours['memory']:>8.1f} x less"
        )


def report_bare_torch(run):
    print(
        f"\n(b) Values and derivatives at {run['points']} points over bare torch in chunks "
        f"of {run['best chunk']}: {run['ratio']:.2f}"
    )


def report_by_hand(rows):
    print("\n(c) femnn over an adjoint written by hand for this problem")
    print(f"    {'cells':<12}{'forward':>9}{'+ gradient':>12}{'seconds':>10}")
    for row in rows:
        print(
            f"    {row['cells']:<12}{row['forward']:>9.2f}{row['forward and gradient']:>12.2f}"
            f"{row['seconds']:>10.3f}"
        )


def report_derivatives(run):
    early, late = run["memory"]["gradients"]
    used = run["memory"]["MiB"]
    print(
        f"\n(d) A gradient over a solve {run['gradient over forward']:.2f}, a Hessian action over "
        f"a gradient {run['Hessian action over gradient']:.2f}; {run['cells']}"
    )
    print(
        f"    Memory after {early} gradients {used[0]:.0f} MiB, after {late} {used[1]:.0f} MiB; "
        f"{run['memory']['cells']}"
    )


def report_mosaic(rows):
    print("\n(e) Mosaic's thermal problem, forward and vector-Jacobian product; MUMPS for all")
    print(f"    {'cells':<16}{'femnn':>10}{'by hand':>11}{'ratio':>8}{'pyadjoint':>12}{'ratio':>8}")
    for row in rows:
        ours, by_hand, theirs = (1e3 * row["seconds"][k] for k in ("femnn", "by hand", "pyadjoint"))
        print(
            f"    {row['cells']:<16}{ours:>7.1f} ms{by_hand:>8.1f} ms{row['ratio']:>8.2f}"
            f"{theirs:>9.1f} ms{row['pyadjoint ratio']:>8.2f}"
        )
    errors = [max(r[k] for r in rows) for k in ("gradient error", "finite difference error")]
    print(
        f"    femnn's gradient differs by {errors[0]:.0e} from the one by hand, by {errors[1]:.0e} "
        "from finite differences"
    )


def report_memory(rows):
    print(
        "\n(f) Peak memory over that of an empty tape, and a gradient's time, by schedule and steps"
    )
    columns = f"{'recording':>12}{'gradient':>11}{'time/plain':>12}{'error':>9}"
    print(f"    {'schedule':<22}{'steps':>6}{columns}")
    for row in rows:
        print(
            f"    {row['schedule']:<22}{row['steps']:>6}{row['recording']:>8.0f} MiB"
            f"{row['memory']:>7.0f} MiB{row['time']:>12.2f}{row['error']:>9.0e}"
        )


def report_steps(run):
    print("\n(g) A small step over the bare solve: 88 cells, P1, two Newton iterations")
    report_ratios(run)


def report_leapfrog(run):
    print("\n(g) An explicit step of two levels over Firedrake's: 88 cells, P1, lumped mass")
    report_ratios(run)


def report_ratios(run):
    for name, ratios in run["over the bare solve"].items():
        shown = ", ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items())
        print(f"    {name:<12}{shown}")
    print(f"    the bare one takes {1e3 * run['seconds a step']['bare']['forward']:.2f} ms")


def report_splitting(rows):
    print("\n(h) Splitting against a network inside Newton's method")
    for name, row in rows.items():
        print(f"    {name}\n      " + row["table"].replace("\n", "\n      "))


def report_training(run):
    print("\n(i) Training the laws of the demos, Gauss-Newton to L-BFGS's loss")
    for name, rows in run["to the same loss"].items():
        print(f"    {name}")
        for method, row in rows.items():
            print(
                f"      {method:<14}{row['iterations']:>4} iterations,"
                f"{row['solves']['linear']:>7} linear systems, {row['seconds']:>6.1f} s, "
                f"loss {row['loss']:.1e}, law {row['error']:.2%}"
            )
        newton, slow = rows["gauss-newton"], rows["L-BFGS"]
        print(f"      time {newton['seconds'] / slow['seconds']:.2f} of L-BFGS's")
    row = run["1 % noise"]
    print(
        f"    nonlinear_poisson with 1 % noise, by the evidence: law {row['error']:.2%}, noise "
        f"{row['noise']:.2f} of the true one, {row['effective parameters']:.1f} effective "
        f"parameters, {row['rounds']} rounds, {row['seconds']:.1f} s"
    )


# For each name on the command line: its key in the results, what measures, what prints.
BENCHMARKS = {
    "written-out": ("written out", against_written_out, report_written_out),
    "bare-torch": (
        "bare torch",
        lambda repeats: against_bare_torch(6 * 2 * 256 * 256, repeats),
        report_bare_torch,
    ),
    "by-hand": (
        "by hand",
        lambda repeats: [against_by_hand(n, repeats) for n in (64, 128, 256)],
        report_by_hand,
    ),
    "two-inputs": ("two inputs", two_inputs.measure, two_inputs.report),
    "derivatives": ("derivatives", derivatives.measure, report_derivatives),
    "mosaic": (
        "mosaic",
        # The smallest takes 10 ms: many calls, so that the machine's noise does not decide.
        lambda repeats: [mosaic.against_by_hand(nx, repeats * 256 // nx) for nx in (64, 128, 256)],
        report_mosaic,
    ),
    "memory": ("memory", lambda repeats: memory.measure(), report_memory),
    "steps": ("steps", steps.measure, report_steps),
    "leapfrog": ("leapfrog", leapfrog.measure, report_leapfrog),
    "splitting": ("splitting", splitting.measure, report_splitting),
    "ensembles": ("ensembles", ensembles.measure, ensembles.report),
    "two-ranks": ("two ranks", two_ranks.measure, two_ranks.report),
    "scaling": ("scaling", scaling.measure, scaling.report),
    "training": ("training", training.measure, report_training),
    "heat-1d": ("heat in 1-D", lambda repeats: heat.measure(), heat.report),
    "subsurface": ("subsurface", lambda repeats: subsurface.measure(), subsurface.report),
    "checkerboard": ("checkerboard", lambda repeats: checkerboard.measure(), checkerboard.report),
    "long-chains": ("long chains", lambda repeats: long_chains.measure(), long_chains.report),
    "coverage": ("coverage", lambda repeats: coverage.measure(), coverage.report),
}
