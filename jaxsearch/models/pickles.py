"""Tensors out of PyTorch's pickles, without PyTorch and without running what a pickle asks for.

A pickle is a program: it names functions and calls them. Here every name it may say stands for an
inert constructor of this file, any other is refused, and nothing is imported on its behalf. Source
code that a file carries along is dropped unread.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import re
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP = b"PK\x03\x04"
_DATA_TYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class PickledNetwork(NamedTuple):
    """A network as a pickle of persistent classes holds it."""

    class_name: str
    arguments: tuple[Any, ...]  # what it was made with: by position ...
    settings: dict[str, Any]  # ... and by name
    tensors: dict[str, np.ndarray]  # parameters and buffers, keyed by their dotted path


def read_network(path: str | os.PathLike[str], *, name: str = "ema") -> PickledNetwork:
    """Reads a network of EDM's published pickles (Karras et al. 2022, https://arxiv.org/abs/2206.00364).

    Such a file is a dictionary of persistent objects: class name, source code, and the attributes
    of a PyTorch module beside the arguments that it was made with.

    Args:
        path: the `.pkl`.
        name: which entry of the dictionary; the published ones hold their network as `"ema"`.

    Returns:
        The network's arguments and its tensors, bit for bit, in their stored types.

    Raises:
        ValueError: if the file cannot be read, asks for anything but tensors and plain containers,
            or holds no such network. The message names file and cause.
    """
    with _naming(path), open(path, "rb") as file:
        network = _entry(_Reader(file, _NETWORKS).load(), name)
        if not isinstance(network, _Persistent):
            raise _RefusedError(f"its entry {name!r} is no network")
        state = network.state
        arguments, settings = state.get("_init_args", ()), state.get("_init_kwargs", {})
        return PickledNetwork(
            network.class_name, tuple(_plain(arguments)), _plain(settings), dict(_tensors(state))
        )


def is_state_dict(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that PyTorch saved, in its zip format or in the one before.

    Raises:
        ValueError: if it cannot be read.
    """
    with _naming(path), open(path, "rb") as file:
        if file.read(4) == _ZIP:
            return True
        file.seek(0)
        try:
            return bool(_Reader(file, {}).load() == _LEGACY_MAGIC)
        except Exception:  # whatever is wrong with it is said by whoever reads it
            return False


def read_state_dict(path: str | os.PathLike[str], *, name: str | None = None) -> dict:
    """Reads a `.pt` or `.pth` of weights only, in PyTorch's zip format or in the one before.

    Args:
        path: the file.
        name: the entry that holds the weights, such as `"ema"`; None if they are the whole file.

    Returns:
        Key -> NumPy array, bit for bit, in the stored type.

    Raises:
        ValueError: if the file cannot be read, asks for anything but tensors and plain containers,
            or holds something else than tensors. The message names file and cause.
    """
    with _naming(path), open(path, "rb") as file:
        is_zip = file.read(4) == _ZIP
        file.seek(0)
        content = _read_zip(file) if is_zip else _read_legacy(file)
        weights = content if name is None else _entry(content, name)
        if not isinstance(weights, Mapping):
            raise _RefusedError(f"it holds a {type(weights).__name__} instead of a state dict")
        for key, value in weights.items():
            if not isinstance(value, _Tensor):
                hint = "; say which entry holds the weights (name, --entry)" if name is None else ""
                raise _RefusedError(f"{key!r} is no tensor{hint}")
        return {str(key): value.array() for key, value in weights.items()}


class _RefusedError(Exception):
    """What the file asks for, or lacks; `_naming` says which file."""


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever goes wrong over a file into one `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # a malformed pickle can end in nearly any of the unpickler's
        cause = str(error) or type(error).__name__
        raise ValueError(f"cannot read {path} as weights: {cause}") from error


class _Constructor:
    """A function that a pickle may call. It cannot be changed by the pickle that names it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError(f"it sets {name!r} of a function")

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("it changes a function")


class _Dictionary(dict):
    """Any mapping of a pickle. Attributes (a state dict's metadata) are dropped."""

    def __setstate__(self, state: Any) -> None: ...


class _Container:
    """A container of modules, which is pickled as PyTorch's own class: its attributes."""

    state: Mapping[str, Any] = types.MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _RefusedError("a module has no attributes")
        self.state = state


class _Persistent(_Container):
    """An object pickled with its source code, which is not kept."""

    class_name = ""


class _DataType:
    """A NumPy data type of plain numbers."""

    def __init__(self, name: str, align: Any = False, copy: Any = True) -> None:
        del align, copy
        if not isinstance(name, str) or not re.fullmatch(r"[biuf][1248]", name):
            raise _RefusedError(f"data type {name!r} is no plain number")
        self.dtype = np.dtype("<" + name)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|"):
            raise _RefusedError(f"byte order {state[1]!r} is not little-endian")


class _StorageType(NamedTuple):
    """The type of a storage's numbers. A pickle that names it cannot change it."""

    dtype: np.dtype


class _Storage:
    """The numbers of one or more tensors; in the legacy format they follow after the pickle."""

    def __init__(self, dtype: np.dtype, count: int, data: bytes | None = None) -> None:
        self.dtype, self.count, self.data = dtype, count, data

    def values(self) -> np.ndarray:
        if self.data is None or len(self.data) != self.count * self.dtype.itemsize:
            held = "none" if self.data is None else len(self.data)
            raise _RefusedError(f"a storage of {self.count} {self.dtype} has {held} bytes")
        return np.frombuffer(self.data, self.dtype)


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor as an array of its own. What reaches beyond its storage is refused."""
        values, count = self.storage.values(), math.prod(self.shape)
        last = self.offset + sum((s - 1) * d for s, d in zip(self.shape, self.strides, strict=True))
        numbers = (self.offset, *self.shape, *self.strides)
        if min(numbers) < 0 or (count and last >= len(values)) or count > len(values):
            raise _RefusedError(
                f"a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset} "
                f"does not fit its storage of {len(values)} numbers"
            )
        if not count:
            return np.zeros(self.shape, values.dtype)
        strides = tuple(stride * values.itemsize for stride in self.strides)
        # A copy: arrays that share a storage must not change with each other.
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


def _persistent(meta: Any) -> _Persistent:
    made = _Persistent()
    made.class_name = str(meta["class_name"])
    made.__setstate__(meta["state"])
    return made


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    del rest  # requires_grad, hooks and metadata: nothing of an array
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in numbers):
        raise _RefusedError("a tensor has no storage, or a shape that is no integer")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *rest: Any) -> Any:
    del rest
    return data


def _scalar(data_type: Any, data: Any) -> Any:
    if not isinstance(data_type, _DataType) or not isinstance(data, bytes):
        raise _RefusedError("a NumPy scalar is no plain number")
    (value,) = np.frombuffer(data, data_type.dtype)
    return value.item()


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"it encodes as {encoding!r}")
    return text.encode("latin1")


_TENSORS: dict[str, Any] = {
    "argparse.Namespace": _Container,  # beside the weights of training checkpoints
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_parameter": _Constructor(_parameter),
    "torch._utils._rebuild_tensor_v2": _Constructor(_tensor),
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _DATA_TYPES.items()},
}
_NETWORKS: dict[str, Any] = {
    **_TENSORS,
    "torch.storage._load_from_bytes": _Constructor(lambda data: _read_legacy(io.BytesIO(data))),
    "torch_utils.persistence._reconstruct_persistent_obj": _Constructor(_persistent),
    "dnnlib.util.EasyDict": _Dictionary,
    "_codecs.encode": _Constructor(_bytes),
    "builtins.set": set,
    "__builtin__.set": set,
    "numpy.dtype": _DataType,
    "numpy.core.multiarray.scalar": _Constructor(_scalar),
    "numpy._core.multiarray.scalar": _Constructor(_scalar),
    **{
        f"torch.nn.modules.container.{name}": _Container
        for name in ("ModuleDict", "ModuleList", "Sequential")
    },
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names it is given and no others."""

    def __init__(
        self,
        file: BinaryIO,
        names: dict[str, Any],
        storage: Callable[[np.dtype, str, int], _Storage] | None = None,
    ) -> None:
        super().__init__(file)
        self._names, self._storage = names, storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._names:
            raise _RefusedError(
                f"it asks for {full}, which is neither a tensor nor a plain container; "
                "nothing of it was run"
            )
        return self._names[full]

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None or not isinstance(pid, tuple) or pid[0] != "storage":
            raise _RefusedError(f"it refers to {pid!r} outside itself")
        _, kind, key, _, count, *view = pid
        known = isinstance(kind, _StorageType) and isinstance(key, str) and type(count) is int
        if not known or count < 0 or view not in ([], [None]):
            raise _RefusedError(f"a storage of unknown form: {pid!r}")
        return self._storage(kind.dtype, key, count)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in sizes if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise _RefusedError("its archive holds no `data.pkl`, so it is none of PyTorch's")
        (root,) = roots
        if f"{root}byteorder" in sizes and archive.read(f"{root}byteorder") != b"little":
            raise _RefusedError("its numbers are not little-endian")
        storages: dict[str, bytes] = {}

        def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
            entry = f"{root}data/{key}"
            if sizes.get(entry) != count * dtype.itemsize:
                raise _RefusedError(f"{entry} does not hold {count} numbers of {dtype}")
            if key not in storages:
                storages[key] = archive.read(entry)
            return _Storage(dtype, count, storages[key])

        return _Reader(io.BytesIO(archive.read(f"{root}data.pkl")), _TENSORS, storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Four pickles (magic number, protocol, system, content), the storages' keys, their numbers."""
    storages: dict[str, _Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> _Storage:
        made = storages.setdefault(key, _Storage(dtype, count))
        if (made.dtype, made.count) != (dtype, count):
            raise _RefusedError(f"storage {key} is of {made.dtype} and of {dtype}")
        return made

    if _Reader(file, {}).load() != _LEGACY_MAGIC or _Reader(file, {}).load() != _LEGACY_PROTOCOL:
        raise _RefusedError("it is no file of weights that PyTorch wrote")
    _Reader(file, {}).load()
    content = _Reader(file, _TENSORS, storage).load()
    for key in _Reader(file, {}).load():
        held = storages[key]
        # Eight bytes of a count, also before a storage of none.
        count, size = file.read(8), held.count * held.dtype.itemsize
        held.data = file.read(size)
        if count != held.count.to_bytes(8, "little") or len(held.data) != size:
            raise _RefusedError("it is truncated: a storage has too few numbers")
    return content


def _entry(content: Any, name: str) -> Any:
    if not isinstance(content, Mapping) or name not in content:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no dictionary"
        raise _RefusedError(f"it has no entry {name!r}; it holds {held}")
    return content[name]


def _plain(value: Any) -> Any:
    """Arguments of a network as plain containers, numbers and text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _RefusedError(f"an argument of the network is a {type(value).__name__}")


def _tensors(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """What PyTorch calls the state dict: parameters, then lasting buffers, then those of parts."""
    for key, value in (*state["_parameters"].items(), *state["_buffers"].items()):
        if value is None or key in state.get("_non_persistent_buffers_set", ()):
            continue
        if not isinstance(value, _Tensor):
            raise _RefusedError(f"{prefix}{key} is no tensor")
        yield f"{prefix}{key}", value.array()
    for key, part in state["_modules"].items():
        if part is not None:
            yield from _tensors(part.state, f"{prefix}{key}.")
