"""Long chains of the checkerboard's posterior, by a model and a sampler without femnn.

The model of :mod:`benchmarks.posterior.checkerboard` in numpy, with a banded Cholesky factor;
adaptive Metropolis, H. Haario, E. Saksman, J. Tamminen, Bernoulli 7 (2001).  Laplace's
approximation is made by finite differences of its gradient.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.optimize import minimize

from benchmarks.posterior import checkerboard
from femnn.inference.diagnostics import effective_draws, r_hat

SIGMA, MEAN, PRECISION = 0.05, 4.0, 0.25
# The stiffness of a square, its corners counterclockwise.
SQUARE = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6
CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
EVERY, WANTED = 2000, 0.25  # steps from one scaling to the next; the share that is taken
LEAST = 10_000  # steps that say something of 64 variances and what goes with what


class Membrane:
    """-div(a grad u) = 10 by bilinear elements, and minus the log posterior of log a."""

    def __init__(self, cells=32, squares=8):
        self.width, self.size = cells, squares**2
        self._stiffness, self._load = _system(cells, squares)
        self._at_points = _interpolation(cells)
        self._data = None

    def solve(self, q):
        bands = (self._stiffness @ np.exp(q)).reshape(self.width + 1, -1)
        factor = cholesky_banded(bands, lower=True, check_finite=False, overwrite_ab=True)
        return factor, cho_solve_banded((factor, True), self._load, check_finite=False)

    def observed(self, q):
        return self._at_points @ self.solve(q)[1]

    def take(self, data):
        self._data = data

    def energy(self, q):
        try:
            residuals = (self.observed(q) - self._data) / SIGMA
        except np.linalg.LinAlgError:
            return np.inf
        return 0.5 * residuals @ residuals + 0.5 * PRECISION * ((q - MEAN) ** 2).sum()

    def gradient(self, q):
        factor, u = self.solve(q)
        residuals = (self._at_points @ u - self._data) / SIGMA
        right = self._at_points.T @ residuals / SIGMA
        adjoint = cho_solve_banded((factor, True), right, check_finite=False)
        bands = np.zeros((self.width + 1, u.size))
        bands[0] = adjoint * u
        for k in range(1, self.width + 1):
            bands[k, :-k] = adjoint[k:] * u[:-k] + adjoint[:-k] * u[k:]
        return PRECISION * (q - MEAN) - (self._stiffness.T @ bands.ravel()) * np.exp(q)


def _system(cells, squares):
    """The stiffness matrix's lower bands for each square's coefficient, and the load."""
    number = np.full((cells + 1, cells + 1), -1)
    n = (cells - 1) ** 2
    number[1:-1, 1:-1] = np.arange(n).reshape(cells - 1, -1)
    i, j = (k.ravel() for k in np.meshgrid(*2 * [np.arange(cells)], indexing="ij"))
    square = (i * squares // cells) * squares + j * squares // cells
    corners = np.stack([number[i + di, j + dj] for di, dj in CORNERS])
    load = np.bincount(corners[corners >= 0], minlength=n) * 2.5 / cells**2
    rows, columns, values = [], [], []
    for a, left in enumerate(corners):
        for b, right in enumerate(corners):
            kept = (left >= 0) & (right >= left)
            rows.append((right - left)[kept] * n + left[kept])
            columns.append(square[kept])
            values.append(np.full(kept.sum(), SQUARE[a, b]))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_matrix(entries, shape=((cells + 1) * n, squares**2)), load


def _interpolation(cells):
    """The values at 13 x 13 points, of those at nodes inside."""
    points = np.stack(np.meshgrid(*2 * [np.arange(1, 14) / 14]), axis=-1).reshape(-1, 2)[:, ::-1]
    cell = np.minimum((points * cells).astype(int), cells - 1)
    s = points * cells - cell
    rows, columns, values = [], [], []
    for corner in CORNERS:
        node = cell + corner
        kept = ((node > 0) & (node < cells)).all(1)
        rows.append(np.flatnonzero(kept))
        columns.append(((node[:, 0] - 1) * (cells - 1) + node[:, 1] - 1)[kept])
        values.append(np.where(corner == 1, s, 1 - s).prod(1)[kept])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_matrix(entries, shape=(len(points), (cells - 1) ** 2))


def laplace(model):
    """The most probable values, and the inverse of all second derivatives there."""
    start = np.zeros(model.size)
    options = {"maxiter": 3000, "gtol": 1e-7}
    best = minimize(model.energy, start, jac=model.gradient, method="BFGS", options=options).x
    step = 1e-4 * np.eye(model.size)
    hessian = np.array([model.gradient(best + d) - model.gradient(best - d) for d in step]) / 2e-4
    return best, np.linalg.inv(0.5 * (hessian + hessian.T))


class Metropolis:
    """A chain whose proposals have the covariance that the first quarter of it has shown."""

    def __init__(self, model, mean, covariance, seed):
        self._energy, self._random = model.energy, np.random.default_rng(seed)
        self._root, self._scale = np.linalg.cholesky(covariance), 2.38 / np.sqrt(len(mean))
        self.q = mean + self._root @ self._random.standard_normal(len(mean))
        self._present, self.taken = self._energy(self.q), 0

    def move(self):
        q = self.q + self._scale * self._root @ self._random.standard_normal(len(self.q))
        energy = self._energy(q)
        if np.log(self._random.random()) < self._present - energy:
            self.q, self._present = q, energy
            self.taken += 1

    def settle(self, steps):
        """Steps, in whole thousands, that find scale and covariance, this from the last half."""
        seen = np.empty((steps, len(self.q)))
        for end in range(EVERY, steps + 1, EVERY):
            taken = self.taken
            for k in range(end - EVERY, end):
                self.move()
                seen[k] = self.q
            self._scale *= np.exp((self.taken - taken) / EVERY - WANTED)
            if end >= LEAST:
                covariance = np.cov(seen[end // 2 : end].T)
                self._root = np.linalg.cholesky(covariance + 1e-8 * np.eye(len(self.q)))
        self.taken = 0

    def draws(self, steps, thin):
        kept = []
        for k in range(steps):
            self.move()
            if (k + 1) % thin == 0:
                kept.append(self.q)
        return np.array(kept)


def measure(steps=1_200_000, seeds=(1, 2), thin=20):
    fine, model = Membrane(256), Membrane()
    model.take(fine.observed(checkerboard.truth()))
    mean, covariance = laplace(model)
    began, draws, taken = time.process_time(), [], []
    for seed in seeds:
        chain = Metropolis(model, mean, covariance, seed)
        chain.settle(steps // 4)
        draws.append(chain.draws(steps - steps // 4, thin))
        taken.append(chain.taken / (steps - steps // 4))
    seconds = time.process_time() - began
    draws, solves = np.array(draws), steps * len(seeds)
    ess, std = effective_draws(draws), draws.std((0, 1))
    ratio = np.sqrt(np.diag(covariance)) / std
    return {
        "steps": steps,
        "chains": len(seeds),
        "seconds": seconds,
        "accepted": float(np.mean(taken)),
        "minimum": float(model.energy(mean)),
        "r_hat": float(r_hat(draws).max()),
        "ess": [float(ess.min()), float(np.median(ess))],
        "ess per 1000 solves": float(1000 * np.median(ess) / solves),
        "std ratio": [float(ratio.min()), float(np.median(ratio)), float(ratio.max())],
        "mean off": float((np.abs(mean - draws.mean((0, 1))) / std).max()),
    }


def report(row):
    low, middle, high = row["std ratio"]
    print(
        f"\n(n) The checkerboard by {row['chains']} chains of {row['steps']} steps, without femnn\n"
        f"    minus log posterior at the maximum {row['minimum']:.4f}, {row['accepted']:.0%} "
        f"taken, R-hat {row['r_hat']:.3f}, ESS {row['ess'][0]:.0f} to median {row['ess'][1]:.0f}, "
        f"{row['ess per 1000 solves']:.1f} draws per 1000 solves, {row['seconds']:.0f} s\n"
        f"    Laplace's std {low:.2f} to {high:.2f} times the chains', in the median {middle:.2f}, "
        f"the maximum off their mean by up to {row['mean off']:.2f}"
    )
