"""Whether a law's bands hold the true law as often as they say, over many draws of the noise.

Laws of the unknown, of the place, and in time, from stations with errors of 1 % that nobody tells:
each draw is fitted by the evidence, and the shares of the true law inside the bands counted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import femnn
from benchmarks.laws import U_MAX, InTime, OfPlace, OfU, law_of_u

LEVELS = (0.5, 0.8, 0.9, 0.95)
GAP = 0.6  # in the case with a gap, u at stations is below


class Draws:
    """Fits of one case to many draws of the noise, each kept as a line of a file.

    The first one begins with a new network; the others with the law, the precisions and half the
    noise that were found then, and with rounds of 5 iterations, which saves most of the time.
    """

    def __init__(self, case, path=None, **settings):
        self.case, self.path, self.settings = case, path, {"rounds": case.rounds, **settings}

    def run(self, n):
        start, rows = None, []
        for seed in range(n):
            _, row, found = self.fitted(seed, start)
            start = start or found
            rows.append(row)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("w" if seed == 0 else "a") as file:
                    file.write(json.dumps(row) + "\n")
        return rows

    def fitted(self, seed, start=None):
        """The functional of a draw, its numbers, and what the next draws begin with."""
        case, began = self.case, time.process_time()
        noise = np.random.default_rng(100 + seed).normal(0, case.spread, case.clean.shape)
        Jhat = case.record(case.clean + noise, start)
        settings = {"maxiter": 10 if start is None else 5, **self.settings}
        result = femnn.fit_with_evidence(Jhat, progress=False, **settings)
        row = {
            "seed": seed,
            **numbers(case, result.posterior),
            "noise": float(case.noise) / case.spread,
            "rounds": len(result.history),
            "linear": result.solves.linear,
            "seconds": time.process_time() - began,
            "weights": case.weights.vector.tolist(),
            "precision": case.prior.precision.tolist(),
        }
        found = case.weights.vector.copy(), case.prior.precision, 0.5 * float(case.noise)
        return Jhat, row, found


def numbers(case, posterior):
    """What a posterior says of a case's law."""
    law = posterior.law(case.net, *case.inputs)
    return {
        "inside": [float(inside(law, case.known, level).mean()) for level in LEVELS],
        "error": float(np.linalg.norm(law.mean - case.known) / np.linalg.norm(case.known)),
        "effective parameters": posterior.effective_parameters,
        "distance": posterior.distance,
        "log evidence": posterior.log_evidence,
        "mean": law.mean.ravel().round(6).tolist(),
        "std": law.std.ravel().round(6).tolist(),
    }


def inside(law, known, level):
    lower, upper = law.interval(level)
    return (lower <= known) & (known <= upper)


def summary(case, rows):
    """Shares over all draws, and what makes them: the spread of laws, and how far they are off.

    A law's mean over the draws is off by its prior, its elements and its network; bands that are
    calibrated for normal numbers have a spread ratio of one and a bias of zero.
    """
    shares = np.array([row["inside"] for row in rows])
    means, stds = (np.array([row[key] for row in rows]) for key in ("mean", "std"))
    known, n = case.known.ravel(), len(rows)
    middle = {
        key: float(np.median([row[key] for row in rows]))
        for key in ("error", "effective parameters", "distance", "noise", "rounds", "seconds")
    }
    return {
        "draws": n,
        "inside": shares.mean(0).tolist(),
        "standard error": (shares.std(0) / np.sqrt(n)).tolist(),
        "spread ratio": rms(means.std(0) / stds.mean(0)),
        "bias": rms((means.mean(0) - known) / stds.mean(0)),
        **middle,
    }


def rms(x):
    return float(np.sqrt(np.mean(x**2)))


def widened(case, rows):
    """Where there are no data, above ``GAP``: shares inside, and widths relative to where are."""
    beyond = case.inputs[0] > GAP
    shares = {}
    for name, part in (("with data", ~beyond), ("without", beyond)):
        z = [
            np.abs(np.array(r["mean"]) - case.known)[part] / np.array(r["std"])[part] for r in rows
        ]
        limits = [femnn.Normal(0.0, 1.0).interval(level)[1] for level in LEVELS]
        shares[name] = [float(np.mean(np.array(z) <= limit)) for limit in limits]
        shares[f"std {name}"] = float(np.mean([np.array(r["std"])[part].mean() for r in rows]))
    return shares


# What makes each case.
CASES = {
    "kappa(u)": OfU,
    "kappa(u), no data above": lambda: OfU(below=GAP),
    "the same, data by its elements": lambda: OfU(below=GAP, refined=False),
    "kappa(x, y)": OfPlace,
    "k(T) in time": InTime,
}


def measure(draws=100, folder="output/bench/coverage", cases=CASES):
    found, folder = {}, Path(folder)
    for name, make in cases.items():
        case = make()
        rows = Draws(case, folder / f"{name}.jsonl").run(draws)
        found[name] = summary(case, rows)
        if isinstance(case, OfU):
            found[name]["by data"] = widened(case, rows)
    if set(cases) == set(CASES):
        figure(folder, found).savefig(folder / "coverage.png")
    return found


def figure(folder, found):
    """Bands of the first draw with and without data above ``GAP``, and shares of all draws."""
    fig, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    names = ("kappa(u)", "kappa(u), no data above")
    titles = ("data everywhere", f"data below u = {GAP}")
    for ax, name, title in zip(axes[:2], names, titles, strict=True):
        with (Path(folder) / f"{name}.jsonl").open() as file:
            row = json.loads(next(file))
        mean, std = np.array(row["mean"]), np.array(row["std"])
        u = np.linspace(0, U_MAX, len(mean))
        lower, upper = femnn.Normal(mean, std).interval(0.9)
        ax.fill_between(u, lower, upper, color="C0", alpha=0.3, label="90 % band")
        ax.plot(u, mean, "C0", label="learned")
        ax.plot(u, law_of_u(u, np.exp), "k--", label="truth")
        ax.set(xlabel="u (dimensionless)", ylim=(0, 2.2), title=f"{title}, one draw")
        ax.legend(loc="upper left")
    axes[0].set_ylabel(r"$\kappa(u)$ (dimensionless)")
    for i, (name, row) in enumerate(found.items()):
        at = np.array(LEVELS) + 0.008 * (i - 1.5)
        error = 2 * np.array(row["standard error"])
        axes[2].errorbar(at, row["inside"], error, fmt="osvD^"[i], label=name, capsize=2)
    axes[2].plot([0.4, 1], [0.4, 1], "k", linewidth=0.8, label="nominal")
    axes[2].fill_between([0.4, 1], [0.33, 0.93], [0.47, 1.07], color="k", alpha=0.08)
    axes[2].set(xlabel="probability of the band", ylabel="share of the true law inside")
    axes[2].legend(loc="upper left", fontsize=8)
    return fig


def report(found):
    print("\n(m) Shares of the true law inside its bands, over draws of the noise")
    print(f"    {'':<38}" + "".join(f"{level:>9.0%}" for level in LEVELS))
    for name, row in found.items():
        pairs = zip(row["inside"], row["standard error"], strict=True)
        shown = "".join(f"{100 * share:>5.0f}+-{100 * error:<2.0f}" for share, error in pairs)
        print(f"    {name:<38}{shown}")
        print(
            f"      {row['draws']} draws: law {row['error']:.2%}, noise {row['noise']:.2f} of the "
            f"true one, {row['effective parameters']:.1f} effective parameters; spread "
            f"{row['spread ratio']:.2f} and bias {row['bias']:.2f} of the bands' std"
        )
        if "by data" in row:
            by = row["by data"]
            print(
                f"      std {by['std with data']:.3f} below u = {GAP}, {by['std without']:.3f} "
                f"above; 90 % bands {by['with data'][2]:.0%} and {by['without'][2]:.0%}"
            )
