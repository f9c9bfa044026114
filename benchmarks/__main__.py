"""Print all measurements, as ratios in one run: ``make bench``.

Without Firedrake, as on a machine that is there for its accelerator, those that need none.
"""

import argparse
import json
from importlib.util import find_spec

from benchmarks import gpu
from femnn.atomic import atomic_file

ALONE = {"gpu": ("gpu", gpu.measure, gpu.report)}


def known():
    """For each name on the command line: its key in the results, what measures, what prints."""
    if find_spec("firedrake") is None:
        return ALONE
    from benchmarks.table import BENCHMARKS

    return {**BENCHMARKS, **ALONE}


def main():
    benchmarks = known()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/bench", help="folder of results.json")
    parser.add_argument("--repeats", type=int, default=8, help="calls that are timed")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=benchmarks,
        metavar="NAME",
        help=f"some of them: {', '.join(benchmarks)}",
    )
    options = parser.parse_args()
    results = {}
    for name in options.only or benchmarks:
        key, measure, report = benchmarks[name]
        results[key] = measure(options.repeats)
        report(results[key])
        with atomic_file(f"{options.output}/results.json") as path:
            path.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
