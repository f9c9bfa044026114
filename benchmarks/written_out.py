"""A network written out in UFL, each parameter a piecewise constant field: what femnn replaces.

The paper's own way, as far as the Firedrake of today can go it.  Constants as controls of a
kept solver have a zero gradient there, Real spaces of vectors cannot be differentiated, and one
scalar field for each weight cannot be compiled; one tensor field for each layer can.
"""

from collections.abc import Sequence

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

ACTIVATIONS = {"tanh": tanh, "sigmoid": lambda x: 1 / (1 + exp(-x))}
OUTPUTS = {None: lambda x: x, "softplus": lambda x: ln(1 + exp(x))}


class WrittenOutNetwork:
    """An MLP as a UFL expression of its operands; single-rank.

    Parameters
    ----------
    net
        A :class:`femnn.MLP`, from which widths, activation and weights are taken.
    mesh
        The mesh on which its parameters are fields.
    """

    def __init__(self, net: femnn.MLP, mesh):
        self.activation = ACTIVATIONS[net.config["activation"]]
        self.output = OUTPUTS[net.config["output"]]
        self.ranges = net.config["input_range"]
        self.mesh, self.layers = mesh, []
        for layer in net.layers:
            if isinstance(layer, torch.nn.Linear):
                W = TensorFunctionSpace(mesh, "DG", 0, shape=tuple(layer.weight.shape))
                b = VectorFunctionSpace(mesh, "DG", 0, dim=layer.out_features)
                self.layers.append((Function(W), Function(b)))
        self.fields = [field for layer in self.layers for field in layer]
        self.sizes = [int(np.prod(f.ufl_shape)) for f in self.fields]
        self._set(self.fields, femnn.Weights.of(net).vector)

    def __call__(self, *operands):
        """The network's single output."""
        x = as_vector(self.scaled(operands))
        for W, b in self.layers[:-1]:
            y = dot(W, x) + b
            x = as_vector([self.activation(y[i]) for i in range(len(y))])
        W, b = self.layers[-1]
        return self.output((dot(W, x) + b)[0])

    def squared_norm(self):
        """The sum of squared weights, on the tape: the mean over the mesh of what is constant."""
        with stop_annotating():
            size = assemble(Constant(1.0) * dx(self.mesh))
        return sum(assemble(inner(f, f) / size * dx) for f in self.fields)

    def scaled(self, operands: Sequence) -> Sequence:
        """The operands, from their ranges to [-1, 1]."""
        if self.ranges is None:
            return operands
        return [
            (x - (lower + upper) / 2) / ((upper - lower) / 2)
            for x, (lower, upper) in zip(operands, self.ranges, strict=True)
        ]

    def controls(self) -> list[Control]:
        """The fields as controls."""
        return [Control(f) for f in self.fields]

    def at(self, weights: np.ndarray) -> list[Function]:
        """New fields that hold a vector of weights, for a reduced functional."""
        fields = [Function(f.function_space()) for f in self.fields]
        self._set(fields, weights)
        return fields

    @staticmethod
    def vector(derivative: Sequence[Cofunction]) -> np.ndarray:
        """The gradient for the weights, from those for the fields: the sum over the cells."""
        return np.concatenate([d.dat.data_ro.sum(axis=0).ravel() for d in derivative])

    def _set(self, fields: list[Function], weights: np.ndarray) -> None:
        with stop_annotating():
            pieces = np.split(weights, np.cumsum(self.sizes)[:-1])
            for field, values in zip(fields, pieces, strict=True):
                field.dat.data_wo[...] = values.reshape(field.ufl_shape)
