"""One method in a process of its own: first call, later calls, peak memory.  Prints JSON."""

import json
import sys

# What is common to all methods (importing, the first mesh) is not part of the first call.
from firedrake import FunctionSpace, UnitSquareMesh

from benchmarks import methods
from benchmarks.problem import best, clock, other_weights, peak_memory

KINDS = {
    "femnn": methods.WithFemnn,
    "femnn, recorded guess": lambda n: methods.WithFemnn(n, warm_start=False),
    "written out": methods.WrittenOut,
    "by hand": methods.ByHand,
}


def main(kind, n, repeats):
    FunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
    weights = other_weights(repeats + 1, 1021)

    def first_call():
        method = KINDS[kind](n)
        method.value(weights[0])
        return method, method.gradient()

    cold, (method, gradient) = clock(first_call)
    values, both = [], []
    for w in weights[1:]:
        value_time, value = clock(method.value, w)
        gradient_time, gradient = clock(method.gradient)
        values.append(value_time)
        both.append(value_time + gradient_time)
    print(
        json.dumps(
            {
                "cold": cold,
                "forward": best(values)[0],
                "forward and gradient": best(both)[0],
                "memory": peak_memory(),
                "value": value,
                "gradient": gradient.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
