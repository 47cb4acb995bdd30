"""Weights come out of PyTorch's files bit for bit, and nothing that a file asks for is run."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from jaxsearch.models.pickles import read_network, read_state_dict


class Hostile:
    """Pickled, it asks for a command that leaves a file behind."""

    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def network(torch, persistence, tmp_path):
    """A small network of two persistent classes, PyTorch's containers, and every kind of tensor."""

    @persistence
    class Part(torch.nn.Module):
        def __init__(self, width) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, width).t())
            self.bias = None
            self.register_buffer("narrow", torch.randn(4).half()[1:])
            self.register_buffer("brain", torch.randn(2).bfloat16())
            self.register_buffer("scratch", torch.ones(2), persistent=False)
            self.register_buffer("empty", torch.zeros(0, 2))

    @persistence
    class Whole(torch.nn.Module):
        mark = tmp_path / "ran"

        def __init__(self, resolution, **settings) -> None:
            super().__init__()
            self._init_args, self._init_kwargs = (resolution,), settings
            self.scale = torch.nn.Parameter(torch.randn(()))
            self.blocks = torch.nn.ModuleDict({"8x8_block": Part(2), "8x8_up": Part(5)})
            self.rest = torch.nn.ModuleList([torch.nn.Sequential(Part(1))])
            self.register_buffer("count", torch.arange(3))
            self.sigma_max = np.float64(80.0)

    return Whole(64, model_type="Network", channel_mult=[1, 2], sigma=np.float64(0.5), label=None)


def _equal(found, state_dict):
    assert list(found) == list(state_dict)
    for key, tensor in state_dict.items():
        wanted = tensor.detach()
        assert found[key].shape == tuple(wanted.shape), key
        assert str(found[key].dtype) == str(wanted.dtype).removeprefix("torch."), key
        width = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}[found[key].dtype.itemsize]
        bits = wanted.contiguous().view(getattr(__import__("torch"), width)).numpy()
        np.testing.assert_array_equal(found[key].view(width), bits, err_msg=key)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_network_is_read_bit_for_bit(network, tmp_path, protocol):
    """Kills: strides or offset of a tensor ignored; non-persistent buffers kept; parts without
    their prefix; embedded source run (the file `ran`)."""
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"ema": network, "loss_fn": None}, protocol))
    read = read_network(path)
    assert (read.class_name, read.arguments) == ("Whole", (64,))
    wanted = dict(model_type="Network", channel_mult=[1, 2], sigma=0.5, label=None)
    assert read.settings == wanted
    assert type(read.settings["sigma"]) is float
    _equal(read.tensors, network.state_dict())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", [None, "ema"])
def test_a_state_dict_is_read_bit_for_bit(torch, network, tmp_path, zipped, name):
    """Kills: shared storages or offsets mixed up, either format, the entry's name ignored."""
    weights = network.state_dict()
    whole = torch.arange(12.0)
    weights["first"], weights["second"] = whole[:6].reshape(2, 3).t(), whole[3:9:2]
    path = tmp_path / "weights.pt"
    content = weights if name is None else {"ema": weights, "step": 3}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path, name=name)
    _equal(found, weights)
    found["first"][:] = 0
    np.testing.assert_array_equal(found["second"], [3, 5, 7])


def test_reading_imports_no_torch(torch, network, tmp_path):
    """Kills: a reader that hands the file to PyTorch."""
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"ema": network}))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    code = (
        "import sys; from jaxsearch.models.pickles import read_network, read_state_dict; "
        "read_network('network.pkl'); read_state_dict('weights.pt'); print('torch' in sys.modules)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "False", done.stderr


def _in_zip(payload):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    return buffer.getvalue()


def _in_legacy(payload):
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join([*head, payload, pickle.dumps([], 2)])


class Nested:
    """A tensor whose storage bytes are a legacy file that asks for a command."""

    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        import torch.storage

        inner = _in_legacy(pickle.dumps(Hostile(self.mark), 2))
        return torch.storage._load_from_bytes, (inner,)


@pytest.mark.parametrize("place", ["pickle", "nested", "zip", "legacy", "legacy header"])
def test_a_command_is_refused_and_not_run(place, tmp_path):
    """Kills: an allow-list with a hole in any of the readers (`find_class` that falls back on the
    standard one leaves the mark)."""
    if place == "nested":
        pytest.importorskip("torch")
    mark, path = tmp_path / "mark", tmp_path / "file"
    payload = pickle.dumps(Hostile(mark), 2)
    content = {
        "pickle": pickle.dumps({"ema": Hostile(mark)}),
        "nested": pickle.dumps({"ema": Nested(mark)}) if place == "nested" else b"",
        "zip": _in_zip(payload),
        "legacy": _in_legacy(payload),
        "legacy header": payload,
    }[place]
    path.write_bytes(content)
    read = read_network if place in ("pickle", "nested") else read_state_dict
    with pytest.raises(ValueError, match=r"file as weights: it asks for posix\.system"):
        read(path)
    assert not mark.exists()


def test_the_command_can_run(tmp_path):
    """The mark that the test above looks for is made by a plain reader."""
    pickle.loads(pickle.dumps(Hostile(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (b"cbuiltins\neval\n(V1+1\ntR.", r"builtins\.eval"),
        (b"cbuiltins\ngetattr\n.", r"builtins\.getattr"),
        (b"ctorch\nload\n.", r"torch\.load"),
        (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", r"torch\.os\.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}V_function\nI1\nsb.", "changes a function"),
        (b"c_codecs\nencode\n(Va\nVrot13\ntR.", "rot13"),
        (b"cnumpy\ndtype\n(VO\ntR.", "'O'"),
        (b"Pelsewhere\n.", "refers to 'elsewhere'"),
    ],
)
def test_other_names_are_refused_by_name(tmp_path, code, named):
    """Kills: names matched by module or prefix only, and constructors that a pickle can alter."""
    path = tmp_path / "file.pkl"
    path.write_bytes(code)
    with pytest.raises(ValueError, match=named):
        read_network(path)


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_truncated_files_are_refused(torch, network, tmp_path, kind):
    """Kills: a short storage padded or read over its end, and a bare EOFError."""
    path = tmp_path / "file"
    read = read_state_dict
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"ema": network}))
        read = read_network
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cannot read .*file as weights: "):
            read(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (9,), (0,))],
)
def test_tensors_stay_within_their_storage(torch, tmp_path, offset, shape, strides):
    """Kills: each bound of `_Tensor.array`; without them memory of others would be read."""

    class Beyond:
        def __reduce__(self):
            storage = torch.arange(4.0)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, {})

    path = tmp_path / "file"
    module = types.SimpleNamespace(Beyond=Beyond)
    torch.save({"w": module.Beyond()}, path)
    with pytest.raises(ValueError, match="does not fit its storage of 4 numbers"):
        read_state_dict(path)


def test_what_is_no_state_dict_is_refused_by_name(torch, tmp_path):
    """Kills: entries that are no tensors dropped in silence."""
    path = tmp_path / "file"
    torch.save({"ema": {"w": torch.ones(1)}, "step": 3}, path)
    with pytest.raises(ValueError, match="'ema' is no tensor; say which entry holds the weights"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="no entry 'model'; it holds ema, step"):
        read_state_dict(path, name="model")
    with pytest.raises(ValueError, match=r"cannot read .*absent as weights"):
        read_state_dict(tmp_path / "absent")
