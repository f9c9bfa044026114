"""How laws are fitted to the experiment: van Genuchten's, and networks that begin from them."""

import copy

import numpy as np
import torch

import femnn
from demos.studies.common import Stopwatch, tell_evidence

from .data import Evaporation
from .laws import Laws, NetworkLaws, VanGenuchten
from .model import Column

SPREAD = 0.25  # precision of van Genuchten's six numbers, which are of size one
SCALES = 0.01, 0.1  # of theta and log K, in which networks are led to other laws


def fitted(
    experiment: Evaporation,
    laws: Laws,
    depths: tuple[float, ...],
    judged: tuple[float, ...],
    noise: float,
    rounds: int,
    iterations: int,
    **sizes: int,
) -> dict:
    """Fit laws to the heads at some depths; errors, and of networks the prior, by the evidence.

    Parameters
    ----------
    experiment, laws
        What was measured, and what is fitted, from its present weights.
    depths, judged
        Depths whose heads are fitted; others whose differences are recorded.
    noise
        The errors of log10(-h) to begin with.
    rounds, iterations
        Of fit and evidence; of Gauss-Newton in each.
    **sizes
        Of the column.
    """
    watch = Stopwatch()
    column = Column(experiment, laws, depths, judged, **sizes)
    column.noise.assign(noise)
    prior = prior_of(column)
    result = femnn.fit_with_evidence(
        column.record(prior),
        rounds=rounds,
        maxiter=iterations,
        callback=tell_evidence,
        progress=False,
    )
    return {
        "laws": laws,
        "column": column,
        "posterior": result.posterior,
        "weights": len(column.weights.vector),
        "effective": result.posterior.effective_parameters,
        "evidence": result.history,
        "noise": float(column.noise),
        "precision": prior.precision.tolist(),
        "runs": result.solves.forward,
        "solves": result.solves.linear,
        "seconds": watch.seconds(),
    }


def prior_of(column: Column) -> femnn.GaussianPrior:
    """Weak and known for van Genuchten's numbers; of networks around where they begin."""
    if isinstance(column.laws, VanGenuchten):
        return femnn.GaussianPrior(column.weights, SPREAD, fixed=True)
    return femnn.GaussianPrior(column.weights, mean=column.weights.vector.copy())


def networks_like(laws: Laws, width: int, seed: int, iterations: int = 300) -> NetworkLaws:
    """Networks that agree with other laws, by L-BFGS on 80 heads from pF 0.9 to 3.1."""
    networks = NetworkLaws(width, seed)
    h = -(10 ** torch.linspace(0.9, 3.1, 80, dtype=torch.float64))[:, None]
    with torch.no_grad():
        theta, log_K = laws.theta(h), laws.log_K(h)
    optimiser = torch.optim.LBFGS(
        networks.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def distance() -> torch.Tensor:
        optimiser.zero_grad()
        first = ((networks.theta(h) - theta) / SCALES[0]) ** 2
        loss = (first + ((networks.log_K(h) - log_K) / SCALES[1]) ** 2).mean()
        loss.backward()
        return loss

    optimiser.step(distance)
    left = float(distance().detach())
    if left > 1:
        raise RuntimeError(
            f"networks_like: networks of width {width} are {np.sqrt(left):.1f} of {SCALES} away "
            "from the laws that they should begin with: take wider ones or another seed."
        )
    return networks


def copied(laws: Laws) -> Laws:
    """The same laws with weights of their own."""
    return copy.deepcopy(laws)
