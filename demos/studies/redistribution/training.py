"""How laws are fitted: those by hand, and networks that begin from them."""

from collections.abc import Callable

import numpy as np
import torch

import femnn
from demos.studies.common import Stopwatch, tell_evidence

from .data import Experiment
from .laws import LOG, RANGE, Diffusivity, Laws, NetworkLaws, VanGenuchten
from .model import Column, Sizes

CLOSE = 0.3  # of logarithms, how far networks may begin from other laws
INLET_ERROR = 0.005  # of the water content that is told: readings behind the inlet are larger
SPREAD = 1.0  # precision of the numbers of the laws by hand, which are of size one


def fitted(
    experiment: Experiment,
    laws: Laws,
    which: np.ndarray,
    sizes: Sizes,
    rounds: int,
    iterations: int,
) -> dict:
    """Fit laws to the infiltration and to some readings of the redistribution.

    The errors, and of networks the prior, are those of the largest evidence.

    Parameters
    ----------
    experiment, laws
        What was measured, and what is fitted, from its present weights.
    which
        The readings of the redistribution that are fitted, a mask of all.
    sizes
        Of the model.
    rounds, iterations
        Of fit and evidence; of Gauss-Newton in each.
    """
    watch, column = Stopwatch(), Column(experiment, laws, which, sizes)
    told = femnn.GaussianPrior(column.inlet, 1 / INLET_ERROR**2, mean=experiment.inlet, fixed=True)
    result = femnn.fit_with_evidence(
        column.record(prior_of(column), told),
        rounds=rounds,
        maxiter=iterations,
        callback=tell_evidence,
        progress=False,
    )
    posterior, solves = result.posterior, result.solves
    return {
        "laws": laws,
        "column": column,
        "posterior": posterior,
        "weights": len(column.weights.vector),
        "effective": posterior.effective_parameters,
        "evidence": result.history,
        "inlet": float(column.inlet),
        "noise": [float(n) for n in column.noise],
        "runs": solves.forward,
        "solves": solves.linear,
        "steps": column.n_steps * (solves.forward + solves.adjoint + solves.tangent),
        "seconds": watch.seconds(),
    }


def prior_of(column: Column) -> femnn.GaussianPrior:
    """Weak and known for the numbers by hand; of networks around where they begin."""
    if isinstance(column.laws, VanGenuchten):
        return femnn.GaussianPrior(column.weights, SPREAD, fixed=True)
    return femnn.GaussianPrior(column.weights, mean=column.weights.vector.copy())


def networks_like(laws: Laws, width: int, seed: int) -> NetworkLaws:
    """Networks that agree with other laws, with nearly the same rate everywhere to begin with."""
    networks = NetworkLaws(width, seed)
    theta, s = _grid(40, 6)

    def tabled(law: Laws) -> torch.Tensor:
        return torch.cat([law.log_suction(theta, s), law.log_K(theta)], 1)

    with torch.no_grad():
        wanted, rate = tabled(laws), laws.log_rate(theta, s).mean() / LOG
        *_, weight, bias = networks.of_rate.parameters()
        weight.mul_(0.1)
        bias.copy_(rate.reshape(bias.shape))
    _lead(networks, lambda: tabled(networks) - wanted)
    return networks


def diffusivity_like(laws: Laws, width: int, seed: int) -> Diffusivity:
    """A diffusivity that agrees with that of other laws while the soil is wetted."""
    network, theta = Diffusivity(width, seed), _grid(40, 1)[0].requires_grad_(True)
    (slope,) = torch.autograd.grad(laws.suction(theta, 0 * theta).sum(), theta)
    wanted = (laws.log_K(theta) + torch.log(-slope)).detach()
    _lead(network, lambda: network.log_K(theta.detach()) - wanted)
    return network


def _grid(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of n water contents with m states each."""
    theta, s = torch.linspace(*RANGE, n), torch.linspace(0, 1, m)
    return tuple(x.reshape(-1, 1).double() for x in torch.meshgrid(theta, s, indexing="ij"))


def _lead(network: torch.nn.Module, off: Callable[[], torch.Tensor], iterations: int = 400) -> None:
    """Train a network by L-BFGS until what it is off, in logarithms, is small."""
    optimiser = torch.optim.LBFGS(
        network.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = (off() ** 2).mean()
        value.backward()
        return value

    optimiser.step(loss)
    left = float(off().detach().square().mean().sqrt())
    if left > CLOSE:
        raise RuntimeError(
            f"a {type(network).__name__} is {left:.2f} away (root mean square, in logarithms) from "
            "the laws that it should begin with: take a larger width or another seed."
        )
