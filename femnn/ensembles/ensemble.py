"""A loss over many models with networks in common, as one reduced functional."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint import ReducedFunctional, Tape
from pyadjoint.tape import annotate_tape, get_working_tape, set_working_tape

from femnn.ensembles.block import EnsembleBlock
from femnn.ensembles.groups import Groups
from femnn.ensembles.members import Members
from femnn.ensembles.recording import Recording, check_used
from femnn.ensembles.shared import Shared


def ensemble(
    build: Callable[[Any, MPI.Comm], Any],
    members: Iterable[Any],
    controls: Any,
    *,
    comm: MPI.Comm = MPI.COMM_WORLD,
    ranks_per_member: int = 1,
    mean: bool = False,
) -> EnsembleFunctional:
    """The sum of the losses of many models that share networks.  Collective.

    Experiments, sites, time windows or samples, each a model of its own, perhaps on a mesh of its
    own.  They are dealt out to groups of ranks; a group computes its members one after the other.
    What all share is the controls' numbers only: a gradient is one sum over ranks of their length.

    Parameters
    ----------
    build
        Called once as ``build(member, comm)`` for each member, by the ranks of ``comm``, which
        is one group: it makes the mesh on ``comm``, records the model and returns its loss,
        a recorded number.  Networks that members share are made before, outside of it.
    members
        What tells members apart, of any kind, the same on all ranks.
    controls
        One or a list of what is shared: networks, their ``Weights`` and Constants; Functions where
        ``ranks_per_member`` is ``comm.size``.  All networks with parameters to be trained that
        ``build`` uses must be among them.
    comm
        All ranks.
    ranks_per_member
        How many ranks compute a member together; a divisor of ``comm.size``.
    mean
        Take the mean over members, not the sum.

    Returns
    -------
    EnsembleFunctional
        A reduced functional, for :func:`femnn.fit`, :class:`femnn.PDELayer` and whatever takes
        pyadjoint's: value, derivative, tangent-linear model, Hessian and Gauss-Newton products.

    Raises
    ------
    TypeError
        If ``build`` returns something else than a recorded number, or a control is of another
        kind.
    ValueError
        If there are no members or no controls; ``ranks_per_member`` does not divide the ranks; a
        field is shared between several groups; a mesh has other ranks than its group; ``build``
        uses a network that is none of the controls, or what was computed from the controls
        outside; or no member depends on a control.
    RuntimeError
        If weights differ between ranks, ``build`` changes a control, or it has raised an error on
        another rank.
    firedrake.ConvergenceError
        If a member's solve fails.

    Notes
    -----
    Each member has a tape of its own.  Where annotation is on, their sum is recorded on the
    working tape, so that priors and penalties can be added:
    ``ReducedFunctional(Jhat.functional + prior.energy(), Jhat.controls)``; otherwise
    on another one.  A schedule is a member's: call :func:`femnn.enable_checkpointing` in ``build``.
    With more groups than members some ranks only take part in the sums.

    Losses are added in the members' order, so that values are bitwise the same for any number of
    groups, and gradients but for the order of sums.

    Examples
    --------
    >>> def build(site, comm):
    ...     mesh = IntervalMesh(site.cells, site.depth, comm=comm)
    ...     ...
    ...     return site.data.misfit(u)
    >>> Jhat = femnn.ensemble(build, sites, controls=[law, encoder])
    >>> femnn.fit(Jhat, "gauss-newton")
    """
    groups, chosen = Groups(comm, ranks_per_member), list(members)
    if not chosen:
        raise ValueError("ensemble got no members: wanted at least one.")
    shared = Shared(controls, groups)
    recording, first = Recording(build, groups, shared), fd.Constant(0.0).count()
    own = recording.members(chosen)
    check_used(own, groups, shared)
    losses = np.zeros(len(chosen))
    for member in own:
        losses[member.index] = float(member.functional)
    models = Members(groups, shared, own, len(chosen), mean, first)
    models.note_recorded(shared.objects, groups.sum(losses))
    return EnsembleFunctional(EnsembleBlock(models), shared, chosen)


class EnsembleFunctional(ReducedFunctional):
    """The sum or mean of many models' losses; made by :func:`femnn.ensemble`.

    Parameters
    ----------
    block
        The block of the sum.
    shared
        The controls.
    members
        The user's members.

    Attributes
    ----------
    functional : pyadjoint.AdjFloat
        The recorded number.
    members : list
        What the members were told apart by.
    comm : mpi4py.MPI.Comm
        All ranks.
    """

    def __init__(self, block: EnsembleBlock, shared: Shared, members: Sequence[Any]):
        self._block, self.members, self.comm = block, members, block.comm
        tape = get_working_tape() if annotate_tape() else Tape()
        with set_working_tape(tape):
            loss = block.value(block.members.total(block.batch))
            tape.add_block(block)
            block.add_output(loss.create_block_variable())
        super().__init__(loss, shared.controls(), tape=tape)

    @property
    def losses(self) -> np.ndarray:
        """Each member's loss where it was evaluated last, NaN where it was not.

        Shape ``(n_members,)``, the same on every rank.
        """
        return self._block.members.losses.copy()

    @contextmanager
    def batch(self, members: Sequence[int]) -> Iterator[None]:
        """Evaluate some of the members only inside, for steps on random parts of the data.

        Derivatives are those of the members with which the value was computed, also outside.
        A sum is that of the batch times ``n_members / len(batch)``, so that on average it
        is that of all.

        Parameters
        ----------
        members
            Their places, each once, the same on all ranks.

        Returns
        -------
        context manager
            Inside, evaluations are of these members.

        Raises
        ------
        ValueError
            If there is none, one is there twice or none of the ensemble's.

        Examples
        --------
        >>> layer = femnn.PDELayer(Jhat)
        >>> for batch in torch.randperm(len(Jhat.members)).split(4):
        ...     optimiser.zero_grad()
        ...     with Jhat.batch(batch.tolist()):
        ...         layer().backward()
        ...     optimiser.step()
        """
        before, chosen = self._block.batch, tuple(sorted(int(i) for i in members))
        everything = self._block.members.everything
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(everything):
            raise ValueError(
                f"batch got {list(members)}: wanted places of members, each once, from 0 to "
                f"{len(everything) - 1}."
            )
        self._block.batch = chosen
        try:
            yield
        finally:
            self._block.batch = before
