"""Print all measurements, as ratios in one run: ``make bench``."""

import argparse
import json

import numpy as np

from benchmarks.problem import run_fresh
from benchmarks.side_by_side import against_bare_torch, against_by_hand
from femnn.storage import atomic_file


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/bench", help="folder of results.json")
    parser.add_argument("--repeats", type=int, default=8, help="calls that are timed")
    options = parser.parse_args()
    results = {
        "written out": against_written_out(32, options.repeats),
        "bare torch": against_bare_torch(6 * 2 * 256 * 256, options.repeats),
        "by hand": [against_by_hand(n, options.repeats) for n in (64, 128, 256)],
    }
    report(results)
    with atomic_file(f"{options.output}/results.json") as path:
        path.write_text(json.dumps(results, indent=2))


def against_written_out(n, repeats):
    """First and later calls of femnn and of the network written out in UFL, and their memory."""
    kinds = ("femnn", "femnn, recorded guess", "written out")
    runs = {kind: json.loads(run_fresh("one_method", kind, n, repeats)) for kind in kinds}
    expected = np.array(runs["written out"].pop("gradient"))
    for kind in kinds[:2]:
        error = np.linalg.norm(np.array(runs[kind].pop("gradient")) - expected)
        runs[kind]["gradient error"] = error / np.linalg.norm(expected)
    return runs


def report(results):
    runs = results["written out"]
    theirs = runs["written out"]
    print("\n(a) The network written out in UFL, Firedrake's solver, pyadjoint; 32 x 32")
    print(f"    {'':<34}{'cold':>9}{'forward':>11}{'+ gradient':>12}{'memory':>11}")
    for kind, run in runs.items():
        print(
            f"    {kind:<34}{run['cold']:>7.1f} s{1e3 * run['forward']:>8.1f} ms"
            f"{1e3 * run['forward and gradient']:>9.1f} ms{run['memory']:>7.0f} MiB"
        )
    for kind in ("femnn", "femnn, recorded guess"):
        ours = runs[kind]
        ratios = [theirs[k] / ours[k] for k in ("cold", "forward", "forward and gradient")]
        print(
            f"    {'times faster: ' + kind:<34}{ratios[0]:>9.1f}{ratios[1]:>11.1f}"
            f"{ratios[2]:>12.1f}{theirs['memory'] / ours['memory']:>8.1f} x less"
        )
    torch_run = results["bare torch"]
    print(
        f"\n(b) Values and derivatives at {torch_run['points']} points over bare torch in chunks "
        f"of {torch_run['best chunk']}: {torch_run['ratio']:.2f}"
    )
    print("\n(c) femnn over an adjoint written by hand for this problem")
    print(f"    {'cells':<12}{'forward':>9}{'+ gradient':>12}{'seconds':>10}")
    for row in results["by hand"]:
        print(
            f"    {row['cells']:<12}{row['forward']:>9.2f}{row['forward and gradient']:>12.2f}"
            f"{row['seconds']:>10.3f}"
        )


if __name__ == "__main__":
    main()
