"""Saving and loading: what comes back, what is refused, and files that are never half-written."""

import json
import os
import pickletools

import numpy as np
import pytest
import torch
from mpi4py import MPI
from safetensors import safe_open
from safetensors.torch import save_file

import femnn
from femnn.export import files as storage


class Custom(torch.nn.Module):
    """A network that femnn cannot build by itself, with a buffer."""

    def __init__(self, width=3, dtype=torch.float64):
        super().__init__()
        self.a = torch.nn.Linear(2, width, dtype=dtype)
        self.b = torch.nn.Linear(width, 1, dtype=dtype)
        self.register_buffer("scale", torch.ones((), dtype=dtype))

    def forward(self, x):
        return self.scale * self.b(torch.tanh(self.a(x)))


def state_of(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def train_a_little(net):
    """Weights that no seed gives."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.linspace(0.1, 0.7, p.numel(), dtype=p.dtype).reshape(p.shape))
    return net


@pytest.mark.parametrize(
    "net",
    [
        femnn.MLP(2, 5, 3, output="softplus", seed=4),
        femnn.MLP(2, 5, 1, activation="silu", output=(0.5, 2), input_range=[(0, 1), (-3, 4)]),
        femnn.MLP(2, 5, 1, dtype=torch.float32),
    ],
    ids=["plain", "ranges", "float32"],
)
def test_round_trip(net, tmp_path):
    train_a_little(net)
    femnn.save(net, tmp_path / "law.safetensors")
    again = femnn.load(tmp_path / "law.safetensors")
    assert isinstance(again, femnn.MLP)
    assert again is not net
    assert same(again.state_dict(), net.state_dict())
    assert again.config == net.config
    x = torch.rand(6, 2, dtype=next(net.parameters()).dtype)
    assert torch.equal(again(x), net(x))
    assert again.metadata == {}
    assert os.listdir(tmp_path) == ["law.safetensors"]


def test_metadata_and_strings_as_paths(tmp_path):
    metadata = {"unit": "W/(m K)", "range": [273.15, 400], "nested": {"µ": None, "ok": True}}
    path = str(tmp_path / "a" / "b" / "law.safetensors")
    femnn.save(femnn.MLP(1, 2, 1), path, metadata)
    assert femnn.load(path).metadata == metadata


def test_metadata_that_json_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        femnn.save(femnn.MLP(1, 1), tmp_path / "law.safetensors", {"f": print})
    assert os.listdir(tmp_path) == []


def test_into_a_module_of_ones_own(tmp_path):
    path = tmp_path / "law.safetensors"
    net = train_a_little(Custom())
    net.scale.fill_(2.5)
    femnn.save(net, path, {"kind": "custom"})
    with pytest.raises(ValueError, match=r"holds a Custom, which femnn cannot build .*into=net"):
        femnn.load(path)
    other = Custom()
    parameters = list(other.parameters())
    assert femnn.load(path, into=other) is other
    assert same(other.state_dict(), net.state_dict())
    assert all(a is b for a, b in zip(parameters, other.parameters(), strict=True))
    assert other.metadata == {"kind": "custom"}


def test_weights_see_a_loaded_network(tmp_path):
    path = tmp_path / "law.safetensors"
    net = train_a_little(femnn.MLP(1, 3, 1))
    femnn.save(net, path)
    other = femnn.MLP(1, 3, 1, seed=9)
    weights = femnn.Weights.of(other)
    femnn.load(path, into=other)
    assert np.array_equal(weights.vector, femnn.Weights.of(net).vector)


@pytest.mark.parametrize(
    "other", [Custom(4), torch.nn.Linear(2, 1, dtype=torch.float64)], ids=["width", "names"]
)
def test_the_wrong_structure_is_refused_and_the_module_unchanged(other, tmp_path):
    path = tmp_path / "law.safetensors"
    femnn.save(train_a_little(Custom()), path)
    before = state_of(other)
    message = rf"law.safetensors holds a Custom that does not fit the module {type(other).__name__}"
    with pytest.raises(ValueError, match=message):
        femnn.load(path, into=other)
    assert same(before, other.state_dict())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load: there is no file .*path that save"):
        femnn.load(tmp_path / "none.safetensors")


def test_a_folder_and_a_device_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load: .* is a folder. Give the path that save"):
        femnn.load(tmp_path)
    with pytest.raises(FileExistsError, match=r"is a folder: give the name of a file"):
        femnn.save(femnn.MLP(1, 3, 1), tmp_path)
    device = tmp_path / "device"
    os.mkfifo(device)
    with pytest.raises(FileExistsError, match=r"is a device: give the name of a file"):
        femnn.save(femnn.MLP(1, 3, 1), device)
    assert device.is_fifo()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file(keep, tmp_path):
    path = tmp_path / "law.safetensors"
    femnn.save(femnn.MLP(2, 30, 1), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"is not a network file, or is damaged \(.+\): wanted"):
        femnn.load(path)


@pytest.mark.parametrize("content", [b"rubbish " * 50, b"\x00" * 500, b"\xff" * 500])
def test_garbage_file(content, tmp_path):
    path = tmp_path / "law.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a network file, or is damaged"):
        femnn.load(path)


@pytest.mark.parametrize("header", [None, {}, {"format": "pt"}, {"format": "femnn-network-99"}])
def test_a_file_of_another_program(header, tmp_path):
    path = tmp_path / "law.safetensors"
    save_file(femnn.MLP(1, 2, 1).state_dict(), str(path), metadata=header)
    with pytest.raises(ValueError, match=r"has the format .*, wanted 'femnn-network-1'"):
        femnn.load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(bad, tmp_path):
    path = tmp_path / "new" / "law.safetensors"
    net = femnn.MLP(1, 3, 1)
    with torch.no_grad():
        net.layers[0].bias[1] = bad
    with pytest.raises(ValueError, match=r"layers\.0\.bias holds NaN or infinity, nothing was"):
        femnn.save(net, path)
    assert not path.parent.exists()


def test_a_module_that_uses_a_layer_twice(tmp_path):
    def make():
        layer = torch.nn.Linear(2, 2, dtype=torch.float64)
        return torch.nn.Sequential(layer, torch.nn.Tanh(), layer)

    path, net, other = tmp_path / "law.safetensors", make(), make()
    femnn.save(net, path)
    femnn.load(path, into=other)
    x = torch.rand(3, 2, dtype=torch.float64)
    assert torch.equal(net(x), other(x))


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "law.safetensors"
    old = femnn.MLP(1, 3, 1, seed=1)
    femnn.save(old, path)

    def write_half(state, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", write_half)
    with pytest.raises(OSError, match="No space left"):
        femnn.save(femnn.MLP(1, 3, 1, seed=2), path)
    assert os.listdir(tmp_path) == ["law.safetensors"]
    assert same(femnn.load(path).state_dict(), old.state_dict())


def test_saving_again_replaces_the_file(tmp_path):
    path = tmp_path / "law.safetensors"
    femnn.save(femnn.MLP(1, 3, 1, seed=1), path)
    new = femnn.MLP(2, 4, 1, seed=2)
    femnn.save(new, path)
    assert same(femnn.load(path).state_dict(), new.state_dict())


def test_atomic_file_keeps_the_suffix_and_the_usual_permissions(tmp_path):
    path = tmp_path / "table.csv"
    with storage.atomic_file(path) as temporary:
        assert temporary.suffix == ".csv"
        assert temporary.parent == tmp_path
        temporary.write_text("1")
        assert not path.exists()
    (tmp_path / "plain").write_text("")
    assert path.read_text() == "1"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_there_is_no_pickle_in_the_file(tmp_path):
    path = tmp_path / "law.safetensors"
    net = train_a_little(femnn.MLP(2, 5, 1))
    femnn.save(net, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    numbers = {k: v for k, v in header.items() if k != "__metadata__"}
    size = sum(v["data_offsets"][1] - v["data_offsets"][0] for v in numbers.values())
    assert len(content) == 8 + length + size, "there is more than the header and the numbers"
    assert size == 8 * sum(v.numel() for v in net.state_dict().values())
    with pytest.raises(Exception, match=r"opcode|expected|unknown"):
        list(pickletools.genops(content))
    with safe_open(str(path), framework="np") as file:
        expected = {k: v.numpy() for k, v in net.state_dict().items()}
        assert set(file.keys()) == set(expected)
        assert all(np.array_equal(file.get_tensor(k), expected[k]) for k in expected)


# On several ranks


@pytest.mark.parallel([1, 2, 3])
def test_rank_zero_writes_and_all_read(tmp_path):
    comm = MPI.COMM_WORLD
    folder = comm.bcast(tmp_path, root=0)
    path = folder / "law.safetensors"
    net = train_a_little(femnn.MLP(2, 5, 1, seed=1))
    femnn.save(net, path, {"ranks": comm.size})
    again = femnn.load(path)  # no barrier: save() itself must not return before the file is there
    assert same(again.state_dict(), net.state_dict())
    assert again.metadata == {"ranks": comm.size}
    assert comm.allreduce(os.listdir(folder) == ["law.safetensors"], op=MPI.LAND)


@pytest.mark.parallel([1, 2, 3])
def test_an_error_on_rank_zero_is_raised_on_all(tmp_path):
    comm = MPI.COMM_WORLD
    folder = comm.bcast(tmp_path, root=0)
    if comm.rank == 0:
        (folder / "file").write_text("no folder")
    comm.barrier()
    with pytest.raises(OSError, match="file"):
        femnn.save(femnn.MLP(1, 1), folder / "file" / "law.safetensors")
    assert comm.allreduce(1) == comm.size
