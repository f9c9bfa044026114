"""Whether a law's bands hold the true law as often as they say, over many draws of the noise.

Laws of the unknown, of the place, and in time, from stations with errors of 1 % that nobody tells:
each draw is fitted by the evidence, and the shares of the true law inside the bands counted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

LEVELS = (0.5, 0.8, 0.9, 0.95)
NOISE = 0.01  # of the largest value
GAP = 0.6  # in the case with a gap, u at stations is below


class Case:
    """A law to be learned, with data without noise.

    Subclasses set ``stations``, ``clean``, ``times`` and the law's ``inputs`` in the visited range
    with its ``known`` values, and write ``observed``, which runs the model.
    """

    times: Any = None

    def __init__(self, net, refined=True):
        self.net, self.fresh = net, femnn.Weights.of(net).vector.copy()
        self.refined = refined

    def observe(self, data):
        """Run the model with the network, recorded; its misfit."""
        raise NotImplementedError

    @property
    def spread(self):
        return NOISE * np.abs(self.clean).max()

    def record(self, values, start=None):
        """The functional of data, from weights and precisions of a former draw."""
        get_working_tape().clear_tape()
        weights, precision, noise = start or (self.fresh, 1.0, 0.1 * self.spread)
        self.noise = Constant(noise, name="noise")
        self.weights = femnn.Weights.of(self.net)
        self.weights.assign(weights)
        data = femnn.Observations(self.stations, values, times=self.times, scale=self.noise)
        self.prior = femnn.GaussianPrior(self.weights, precision)
        continue_annotation()
        J = self.observe(data) + self.prior.energy()
        pause_annotation()
        return ReducedFunctional(J, Control(self.weights))


def law_of_u(u, exp=exp):
    return 0.25 + 0.5 * exp(-(((u - 0.25) / 0.13) ** 2)) + 0.75 / (1 + exp(-14 * (u - 0.65)))


class OfU(Case):
    """``-div(kappa(u) grad u) = 2.6``, as in ``demos/law_with_band.py``."""

    def __init__(self, cells=12, n_stations=400, width=10, below=None, refined=True):
        net = femnn.MLP(
            *(1, width, width, 1), output="softplus", input_range=(0, 1), init="normal", seed=0
        )
        super().__init__(net, refined)
        self.mesh, random = UnitSquareMesh(cells, cells), np.random.default_rng(0)
        exact = Function(FunctionSpace(self.mesh, "P", 4 if refined else 2))
        solve(*self.problem(exact, law_of_u(exact)))
        points = random.uniform(0, 1, (n_stations if below is None else 4 * n_stations, 2))
        if below is not None:
            low = np.asarray(femnn.Stations(self.mesh, points)(exact)) < below
            points = points[low][:n_stations]
        self.stations = femnn.Stations(self.mesh, points)
        self.clean = np.asarray(self.stations(exact))
        self.inputs = (np.linspace(0, exact.dat.data_ro.max(), 200),)
        self.known = law_of_u(*self.inputs, np.exp)

    def problem(self, u, kappa):
        v = TestFunction(u.function_space())
        F = kappa * inner(grad(u), grad(v)) * dx - 2.6 * v * dx
        return F == 0, u, DirichletBC(u.function_space(), 0, (1, 3))

    def observe(self, data):
        u = Function(FunctionSpace(self.mesh, "P", 2))
        femnn.solve(*self.problem(u, femnn.NeuralCoefficient(self.net, u)))
        return data.misfit(u)


class OfPlace(Case):
    """``-div(kappa(x, y) grad u) = 10``, u = 0 on the boundary."""

    def __init__(self, cells=8, n_stations=400, width=6, refined=True):
        net = femnn.MLP(2, width, width, 1, output="softplus", input_range=(0, 1), seed=0)
        super().__init__(net, refined)
        self.mesh, random = UnitSquareMesh(cells, cells), np.random.default_rng(0)
        exact = Function(FunctionSpace(self.mesh, "P", 4 if refined else 2))
        x, y = SpatialCoordinate(self.mesh)
        solve(*self.problem(exact, self.law(x, y)))
        self.stations = femnn.Stations(self.mesh, random.uniform(0, 1, (n_stations, 2)))
        self.clean = np.asarray(self.stations(exact))
        line = np.linspace(0, 1, 25)
        self.inputs = np.meshgrid(line, line)
        self.known = self.law(*self.inputs)

    @staticmethod
    def law(x, y):
        return 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)

    def problem(self, u, kappa):
        v = TestFunction(u.function_space())
        F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        return F == 0, u, DirichletBC(u.function_space(), 0, "on_boundary")

    def observe(self, data):
        u = Function(FunctionSpace(self.mesh, "P", 2))
        kappa = femnn.NeuralCoefficient(self.net, *SpatialCoordinate(self.mesh), degree=4)
        femnn.solve(*self.problem(u, kappa))
        return data.misfit(u)


class InTime(Case):
    """``dT/dt = (k(T) T')'``, hot at x = 0, as in ``demos/heat_in_time.py``."""

    def __init__(self, cells=10, steps=5, n_stations=20, width=6, refined=True):
        net = femnn.MLP(
            *(1, width, width, 1), output="softplus", input_range=(0, 1), init="normal", seed=0
        )
        super().__init__(net, refined)
        self.mesh, self.steps = UnitIntervalMesh(cells), steps
        self.times = np.arange(1, steps + 1) / steps
        self.stations = femnn.Stations(
            self.mesh, np.arange(1, n_stations + 1)[:, None] / n_stations
        )
        V = FunctionSpace(self.mesh, "P", 5 if refined else 2)
        self.clean = np.array([np.array(self.stations(T)) for T in self.run(V, self.law)])
        self.inputs = (np.linspace(0, 1, 200),)
        self.known = self.law(*self.inputs)

    @staticmethod
    def law(T):
        return 0.1 + 0.4 / (1 + 10 * (T - 0.6) ** 2)

    def run(self, V, k):
        T, last, v = Function(V), Function(V), TestFunction(V)
        F = self.steps * (T - last) * v * dx + k(T) * inner(grad(T), grad(v)) * dx
        problem = femnn.NeuralVariationalProblem(F, T, DirichletBC(V, 1, 1))
        solver = femnn.NeuralVariationalSolver(problem)
        for _ in range(self.steps):
            solver.solve()
            last.assign(T)
            yield T

    def observe(self, data):
        observe = data.start()
        V = FunctionSpace(self.mesh, "P", 2)
        states = self.run(V, lambda T: femnn.NeuralCoefficient(self.net, T))
        for time_, T in zip(self.times, states, strict=True):
            observe(T, time_)
        return observe.misfit()


class Draws:
    """Fits of one case to many draws of the noise, each kept as a line of a file.

    The first one begins with a new network; the others with the law, the precisions and half the
    noise that were found then, which saves most of the time.
    """

    def __init__(self, case, path=None, **settings):
        self.case, self.path, self.settings = case, path, {"rounds": 30, **settings}

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


def linearised(case, seed=0, steps=1000):
    """One draw by Gauss-Newton's matrix, by all second derivatives, and by the posterior itself."""
    Jhat, _, _ = Draws(case).fitted(seed)
    femnn.fit(Jhat, "newton-cg", maxiter=30, progress=False)
    rows = {}
    for hessian in ("gauss-newton", "exact"):
        posterior = femnn.laplace(Jhat, hessian=hessian)
        rows[hessian] = numbers(case, posterior)
    draws = femnn.chains(posterior, steps, n_chains=2)
    laws = []
    for weights in draws.draws.reshape(-1, draws.draws.shape[-1])[::5]:
        case.weights.assign(weights)
        laws.append(femnn.evaluate(case.net, *case.inputs).ravel())
    case.weights.assign(posterior.mean)
    laws, known = np.array(laws), case.known.ravel()
    rows["chain"] = {
        "accepted": draws.accepted,
        "mean": laws.mean(0).tolist(),
        "std": laws.std(0).tolist(),
        "inside": [
            float(np.mean(np.abs(np.mean(laws < known, axis=0) - 0.5) <= level / 2))
            for level in LEVELS
        ],
    }
    return rows


CASES = {
    "kappa(u)": OfU,
    "kappa(u), data by its own elements": lambda: OfU(refined=False),
    "kappa(u), no data above": lambda: OfU(below=GAP),
    "kappa(x, y)": OfPlace,
    "k(T) in time": InTime,
}


def measure(draws=100, folder="output/bench/coverage", cases=CASES):
    found = {}
    for name, make in cases.items():
        case = make()
        rows = Draws(case, Path(folder) / f"{name}.jsonl").run(draws)
        found[name] = summary(case, rows)
        if isinstance(case, OfU):
            found[name]["by data"] = widened(case, rows)
    return found


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
