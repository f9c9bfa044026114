"""A torch computation on fields, recorded on the tape."""

from __future__ import annotations

from typing import Any

from pyadjoint.tape import annotate_tape, get_working_tape, stop_annotating
from torch import nn

from femnn.autograd.block import OperatorBlock
from femnn.autograd.operation import Operation


def apply(net: nn.Module, *inputs: Any, into: Any) -> Any:
    """Evaluate a torch module once, as a whole, on fields; recorded on the tape.  Collective.

    For what is not a law at points: an encoder of attributes, a recurrent network over a
    time series of forcing, a convolution over an image of the domain.  Laws at points are
    :class:`~femnn.NeuralCoefficient`.

    Parameters
    ----------
    net
        A module that is called as ``net(*tensors)``; its value must depend on nothing else.
    *inputs
        Functions, Constants, values at stations (:class:`~femnn.Stations`) and recorded numbers,
        which become tensors and have gradients, or tensors, which are data.  A Function's tensor is
        rank-local: the values of the degrees of freedom that the rank owns, shape
        ``(n_owned, ...)``.
    into
        What the output is: a function space (the module returns the rank-local values, in
        the shape of ``Function(into).dat.data_ro``), or a Constant or values at stations, whose
        shape is taken (the module returns the same on every rank, as for the Real space), or
        ``float`` for a number such as a loss: the module returns the rank's part of a sum over
        the ranks, or where no input is rank-local the number itself, the same on every rank.

    Returns
    -------
    firedrake.Function, firedrake.Constant, Vector or pyadjoint.AdjFloat
        A new one.  The module's weights are the control ``Weights.of(net)``.

    Raises
    ------
    TypeError
        If an input, ``into`` or the module's result is of another kind, in a mixed space or a
        component of a vector field.
    ValueError
        If the module returns another shape than ``into`` has, draws random numbers or changes
        its buffers (dropout and batch normalisation in training mode do).
    RuntimeError
        If weights differ between ranks, or what should be the same on every rank is not (it is
        compared where an input is a Function), or the module has raised an error on another
        rank.
    """
    operation = Operation(net, inputs, into)
    with stop_annotating():
        result = operation.evaluate(None, operation.present())
    if annotate_tape():
        block = OperatorBlock(operation)
        get_working_tape().add_block(block)
        block.add_output(result.create_block_variable())
    return result
