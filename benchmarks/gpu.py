"""Networks at points on an accelerator and on the processor.  Needs torch and numpy only.

Rates are of whole sweeps: arrays of numpy go in and come out.  The roofline is that of this
device in this run: its rates for a large product of matrices and for a copy, and for each sweep
the arithmetic and the memory traffic that it cannot do without.
"""

import time

import numpy as np
import torch

from femnn import MLP
from femnn.evaluation.evaluator import PointEvaluator

WIDTHS = (16, 64, 256)
INPUTS, HIDDEN = 2, 2
POINTS = {"cpu": 2**16, "cuda": 2**21}
# A forward sweep multiplies each weight once, and each derivative's way back once more; each unit
# is read and written by its affine map and by its activation, and read again on the way back.
WORK = {"values": (2, 4), "values, derivatives": (4, 10), "product with weights": (6, 10)}


def network(width, device):
    sizes = [INPUTS, *[width] * HIDDEN, 1]
    return MLP(*sizes, output="softplus", seed=1).to(device)


def sweeps(evaluator, x, seed):
    """What is measured, and what it gives."""
    return {
        "values": lambda: [evaluator.value(x)],
        "values, derivatives": lambda: evaluator.value_and_derivative(x),
        "product with weights": lambda: [evaluator.weight_vjp(x, seed)],
    }


def data(n):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (n, INPUTS)), rng.standard_normal((n, 1))


def seconds(call, device, repeats):
    """The least time of some calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def ceilings(device, repeats, n=None):
    """Operations and bytes a second that the device reaches in float64."""
    n = n or (4096 if device == "cuda" else 1024)
    a = torch.rand(n, n, dtype=torch.float64, device=device)
    b, room = torch.rand_like(a), torch.empty_like(a)
    product = seconds(lambda: torch.matmul(a, b, out=room), device, repeats)
    copy = seconds(lambda: room.copy_(a), device, repeats)
    return 2 * n**3 / product, 16 * n**2 / copy


def rates(device, repeats, widths=None, n=None):
    """Points a second for each width and sweep, and their share of the roofline."""
    operations, traffic = ceilings(device, repeats)
    x, seed = data(n or POINTS[device])
    rows = []
    for width in widths or WIDTHS:
        evaluator = PointEvaluator(network(width, device), INPUTS)
        weights, units = len(evaluator.parameters), HIDDEN * width + 1
        for name, call in sweeps(evaluator, x, seed).items():
            took = seconds(call, device, repeats)
            products, passes = WORK[name]
            bound = max(products * weights / operations, 8 * passes * units / traffic)
            rate = len(x) / took
            row = {"width": width, "weights": weights, "sweep": name, "points": rate}
            rows.append({**row, "roofline": rate * bound})
    return {"operations": operations, "traffic": traffic, "rows": rows}


def break_even(repeats, width=64):
    """The least number of points times weights for which the accelerator is not slower."""
    evaluators = {d: PointEvaluator(network(width, d), INPUTS) for d in ("cpu", "cuda")}
    for n in 2 ** np.arange(4, 21):
        x, seed = data(n)
        took = {
            device: seconds(sweeps(e, x, seed)["values, derivatives"], device, repeats)
            for device, e in evaluators.items()
        }
        if took["cuda"] <= took["cpu"]:
            return int(n) * len(evaluators["cpu"].parameters)
    return None


def difference(width=64, n=20_000):
    """The largest relative difference between the accelerator's numbers and the processor's."""
    x, seed = data(n)
    there, here = (
        sweeps(PointEvaluator(network(width, device), INPUTS), x, seed)
        for device in ("cuda", "cpu")
    )
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for name in here
        for a, b in zip(there[name](), here[name](), strict=True)
    )


def measure(repeats, widths=None, n=None):
    found = {"cpu": rates("cpu", repeats, widths, n)}
    if torch.cuda.is_available():
        found["name"] = torch.cuda.get_device_name()
        found["cuda"] = rates("cuda", repeats, widths, n)
        found["break-even"] = break_even(repeats)
        found["difference"] = difference()
        assert found["difference"] < 1e-12, found["difference"]
    return found


def report(found):
    print("\n(n) Networks at points, float64: millions of points a second, share of the roofline")
    if "cuda" not in found:
        print("    torch sees no CUDA device here: the processor alone")
    for device in ("cpu", "cuda"):
        if device not in found:
            continue
        run = found[device]
        name = found["name"] if device == "cuda" else f"{torch.get_num_threads()} threads at most"
        print(
            f"    {device} ({name}): {run['operations'] / 1e9:.0f} Gflop/s, "
            f"{run['traffic'] / 1e9:.0f} GB/s"
        )
        for row in run["rows"]:
            print(
                f"      {row['weights']:>7} weights  {row['sweep']:<22}"
                f"{row['points'] / 1e6:>9.2f}{row['roofline']:>8.0%}"
            )
    if "cuda" in found:
        print(
            f"    break-even at {found['break-even']} points times weights; numbers differ by "
            f"{found['difference']:.0e} from the processor's"
        )
