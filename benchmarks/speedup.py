"""Ranks against one rank, and what as many independent copies on the same cores gain.

Copies share nothing but the machine: what they gain is what its memory and clock allow, and what
ranks are short of that they lose to each other.  All ways run in one process after the other, call
by call, so that what else the machine does is the same for all; ranks without work sleep.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
from mpi4py import MPI

WAYS = ("one", "ranks", "copies")


class Compared:
    """The same work by one rank alone, by all ranks together, and by each rank for itself.

    Parameters
    ----------
    make
        Makes a model on a communicator.
    parts
        Seconds that this rank has spent so far, by what on; told of each way then, too.
    """

    def __init__(self, make, parts=dict):
        self._world, self._parts = MPI.COMM_WORLD, parts
        self._models = {"ranks": make(self._world), "copies": make(MPI.COMM_SELF)}
        if self._world.rank == 0:
            self._models["one"] = make(MPI.COMM_SELF)
        wait_for_all(self._world)
        self._seconds = defaultdict(list)

    def measure(self, name, work):
        """Take the times of ``work(model)``; its results by way, as far as this rank has them."""
        results = {}
        for way in WAYS:
            if way in self._models:
                results[way] = self._timed(way, name, work)
            wait_for_all(self._world)
        return results

    def forget(self):
        """What was measured so far was to make what is made once."""
        self._seconds.clear()

    def report(self):
        """For each name least seconds, how many times faster ranks and copies are, and the parts.

        On rank 0, which knows of all ways; nothing on the others.
        """
        if self._world.rank:
            return {}
        names = dict.fromkeys(name for name, _ in self._seconds)
        return {name: self._row(name) for name in names}

    def _row(self, name):
        best = {way: min(self._seconds[name, way], key=lambda s: s["all"]) for way in WAYS}
        gains = {what: _gain(best, what, self._world.size) for what in best["one"]}
        return {"seconds": {way: best[way]["all"] for way in WAYS}, **gains.pop("all")} | {
            "parts": gains
        }

    def _timed(self, way, name, work):
        comm = MPI.COMM_SELF if way == "one" else self._world
        comm.barrier()
        before, start = self._parts(), time.perf_counter()
        result = work(self._models[way])
        spent = {"all": time.perf_counter() - start}
        spent |= {part: seconds - before[part] for part, seconds in self._parts().items()}
        # The slowest rank's; the names are the same on all.
        most = np.array(list(spent.values()))
        comm.Allreduce(MPI.IN_PLACE, most, op=MPI.MAX)
        self._seconds[name, way].append(dict(zip(spent, most.tolist(), strict=True)))
        return result


def _gain(best, what, ranks):
    one, together, copies = (best[way][what] for way in WAYS)
    return {
        "share": one / best["one"]["all"],
        "times faster": one / together if together else None,
        "copies": ranks * one / copies if copies else None,
    }


def wait_for_all(comm):
    """Wait for the other ranks without using a processor."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(1e-3)


def run_on_ranks(ranks, module, *args):
    """Run a benchmark module on so many ranks; the JSON that rank 0 prints.

    Ranks that wait give their processor to others only where there are more of them than cores:
    MUMPS asks for messages at each of its fronts, and each time would ask the system, too.
    """
    # This process has started MPI itself, which mpiexec must not take for its own.
    ours = ("OMPI_COMM", "OMPI_UNIVERSE", "OMPI_MCA_orte", "OMPI_MCA_ess", "PMIX_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    many = ranks > len(os.sched_getaffinity(0))
    environment |= {
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_mpi_yield_when_idle": str(int(many)),
    }
    command = ["mpiexec", "-n", str(ranks), sys.executable, "-m", f"benchmarks.{module}"]
    done = subprocess.run(
        [*command, *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])
