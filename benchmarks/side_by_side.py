"""femnn against a hand-written adjoint, and its evaluation of the network against bare torch."""

import statistics

import numpy as np
import torch

from benchmarks import methods
from benchmarks.problem import clock, network, other_weights
from femnn.evaluation.evaluator import PointEvaluator


def against_by_hand(n, repeats):
    """Ratios of warm times, femnn to by hand, the two called in turn."""
    ours, theirs = methods.WithFemnn(n), methods.ByHand(n)
    forward, both, seconds = [], [], []
    for w in other_weights(repeats + 1, 1021):
        a, value = clock(ours.value, w)
        b, gradient = clock(ours.gradient)
        c, value_by_hand = clock(theirs.value, w)
        d, gradient_by_hand = clock(theirs.gradient)
        assert abs(value - value_by_hand) < 1e-10 * abs(value)
        error = np.linalg.norm(gradient - gradient_by_hand)
        assert error < 1e-8 * np.linalg.norm(gradient), error
        forward.append((a, c))
        both.append((a + b, c + d))
        seconds.append(a + b)
    return {
        "cells": f"{n} x {n}",
        "forward": ratio(forward[1:]),
        "forward and gradient": ratio(both[1:]),
        "seconds": statistics.median(seconds[1:]),
    }


def against_bare_torch(n_points, repeats):
    """Ratio of times for values and derivatives, femnn to torch in its best chunk size."""
    x = np.random.default_rng(0).uniform(0, 1, (n_points, 1))
    net = network()
    evaluator = PointEvaluator(net, 1)
    chunks = (1024, 2048, 4096, 8192, 16384)
    for chunk in chunks:
        bare(net, x, chunk)
    times = {chunk: min(clock(bare, net, x, chunk)[0] for _ in range(3)) for chunk in chunks}
    chunk = min(times, key=times.get)
    pairs = []
    for _ in range(repeats):
        ours = clock(evaluator.value_and_derivative, x)[0]
        pairs.append((ours, clock(bare, net, x, chunk)[0]))
    return {"points": n_points, "best chunk": chunk, "ratio": ratio(pairs)}


def bare(net, x, chunk):
    points = torch.from_numpy(x)
    values, slopes = torch.empty_like(points), torch.empty_like(points)
    for p in net.parameters():
        p.requires_grad_(False)
    for start in range(0, len(points), chunk):
        part = slice(start, start + chunk)
        xi = points[part].requires_grad_(True)
        yi = net(xi)
        (slopes[part],) = torch.autograd.grad(yi.sum(), xi)
        values[part] = yi.detach()
    for p in net.parameters():
        p.requires_grad_(True)
    return values, slopes


def ratio(pairs):
    """The ratio of the least times: what noise on the machine disturbs least."""
    ours, theirs = zip(*pairs, strict=True)
    return min(ours) / min(theirs)
