"""A network's values at arrays."""

import sys

import numpy as np
import pytest
import torch

import femnn


def test_inputs_broadcast():
    net = femnn.MLP(2, 5, 1, seed=1)
    a, b = np.linspace(0, 1, 4)[:, None], np.linspace(-1, 2, 3)
    values = femnn.evaluate(net, a, b)
    assert values.shape == (4, 3)
    assert values.dtype == float
    for i, j in np.ndindex(4, 3):
        point = torch.tensor([[a[i, 0], b[j]]])
        assert values[i, j] == pytest.approx(net(point).item(), abs=1e-15)


def test_several_outputs_stand_on_a_last_axis():
    net = femnn.MLP(1, 5, 3, seed=1)
    x = np.linspace(0, 1, 6).reshape(2, 3)
    values = femnn.evaluate(net, x)
    assert values.shape == (2, 3, 3)
    expected = net(torch.from_numpy(x.reshape(-1, 1))).detach().numpy()
    assert np.array_equal(values.reshape(-1, 3), expected)


@pytest.mark.parametrize(
    ("given", "shape"),
    [(0.5, ()), (1, ()), ([], (0,)), ([True, False], (2,)), ([[1], [2]], (2, 1))],
)
def test_numbers_lists_and_no_points(given, shape):
    assert femnn.evaluate(femnn.MLP(1, 3, 1), given).shape == shape


def test_more_points_than_a_chunk_and_another_dtype():
    net = femnn.MLP(1, 5, 1, dtype=torch.float32, seed=2)
    x = np.linspace(-1, 1, 10_001)
    expected = net(torch.from_numpy(x[:, None]).float()).detach().numpy()[:, 0]
    assert np.allclose(femnn.evaluate(net, x), expected, atol=1e-6)
    assert femnn.evaluate(net, x).dtype == float


def test_the_inputs_stay_as_they_are():
    x = np.linspace(0, 1, 5)
    x.flags.writeable = False
    femnn.evaluate(femnn.MLP(1, 3, 1), x)
    assert np.array_equal(x, np.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((), ValueError, "no inputs: give one array for each"),
        (
            (1.0,),
            ValueError,
            "evaluate got 1 arrays, one for each input.*does not take the 1 inputs",
        ),
        ((np.ones(3), np.ones(2)), ValueError, r"shapes \(3,\), \(2,\) do not broadcast"),
        ((np.ones(3), np.ones(3) * 1j), TypeError, "input 1 is a ndarray of dtype complex128"),
        (("a", 1.0), TypeError, "input 0 is a str"),
        ((object(), 1.0), TypeError, "wanted real numbers"),
    ],
)
def test_wrong_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        femnn.evaluate(femnn.MLP(2, 3, 1), *inputs)


def test_what_is_no_module():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        femnn.evaluate(np.sin, 1.0)


def test_needs_no_firedrake():
    """In a fresh interpreter: torch and numpy are enough."""
    import subprocess

    code = (
        "import sys, numpy, femnn; femnn.evaluate(femnn.MLP(1, 2, 1), numpy.ones(2));"
        "sys.exit(bool({'firedrake', 'mpi4py', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
