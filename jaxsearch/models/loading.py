"""One strict way between safetensors files and the parameters of `flax.nnx` modules.

The key of a tensor is the path of its attribute joined with dots, as in `blocks.0.mlp.kernel`.
Parameters are nested dictionaries of arrays, the form in which `flax.nnx.merge` takes them.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.placing import placement

_NAMES_SHOWN = 5
_KEPT = 8

Loader = TypeVar("Loader", bound=Callable[..., Any])
Module = TypeVar("Module", bound=nnx.Module)


def loaded_once(load: Loader) -> Loader:
    """A loader that reads the same files with the same settings once: the last few are kept.

    Several verifiers may be made of one network, whose weights are then in memory once. What is
    loaded to another place (`placing`) is another thing.

    Args:
        load: `(path, ...)`, the path of a file or of a folder, and settings that can be hashed.
            What it returns must not be changed by anyone.
    """
    kept: dict[Any, Any] = {}

    @functools.wraps(load)
    def loader(path: str | os.PathLike[str], *args: Any, **settings: Any) -> Any:
        # What a failing loader says of the path is said of the path that it was given.
        key = (_state(Path(path)), placement(), args, tuple(sorted(settings.items())))
        if key not in kept:
            kept[key] = load(path, *args, **settings)
            while len(kept) > _KEPT:
                del kept[next(iter(kept))]
        return kept[key]

    return loader  # type: ignore[return-value]


def _state(path: Path) -> tuple:
    """Which files there are, and which versions of them."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return (path.resolve(), *((name, one.st_size, one.st_mtime_ns) for name, one in stats))


class _OneKey:
    """Stands for `nnx.Rngs` where nothing is drawn.

    Those count what they give in a variable of the trace, for which JAX looks through all that was
    traced before: of a large network that takes longer than anything else.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def params(self) -> jax.Array:
        return self._key


def abstract_module(build: Callable[[nnx.Rngs], Module]) -> Module:
    """A module that has shapes for weights: nothing is drawn.

    Args:
        build: makes it, taking keys by `rngs.params()` alone, as layers do.
    """
    return nnx.eval_shape(lambda: build(cast(nnx.Rngs, _OneKey(jax.random.key(0)))))


@functools.cache
def abstract_network(module: Callable[..., Module], config: Any, **settings: Any) -> Module:
    """An `abstract_module`, the same object for equal arguments: not to be changed.

    Args:
        module: its class, `(config, *, rngs, **settings)`.
        config: what it is made of.
        settings: such as its type; all can be hashed, and stand in the same order each time.
    """
    return abstract_module(lambda rngs: module(config, rngs=rngs, **settings))


def functional(
    build: Callable[[nnx.Rngs], nnx.Module], method: str = "__call__"
) -> Callable[..., Any]:
    """A module as a pure function of its parameters.

    Args:
        build: makes the module; it runs abstractly, no weight is drawn.
        method: what of the module is called.

    Returns:
        `(params, *inputs) -> output`. Keep it: another call of this makes another function, for
        which programs are compiled anew.
    """
    return _function_of(abstract_module(build), method)


def _function_of(module: nnx.Module, method: str) -> Callable[..., Any]:
    graph, _ = nnx.split(module)

    def apply(params: PyTree, *inputs: Any) -> Any:
        return getattr(nnx.merge(graph, params), method)(*inputs)

    return apply


@functools.cache
def network_of(
    module: Callable[..., nnx.Module], config: Any, **settings: Any
) -> Callable[..., Any]:
    """A module as `functional` has it, the same object for equal arguments.

    Its arguments are those of `abstract_network`.
    """
    return _function_of(abstract_network(module, config, **settings), "__call__")


def parameters(module: nnx.Module) -> PyTree:
    """The parameters of a module: nested dictionaries of arrays, or of shapes if it is abstract."""
    return nnx.to_pure_dict(nnx.state(module))


def load_safetensors(
    module: nnx.Module, path: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> PyTree:
    """Reads the parameters of a module from a file that must match it exactly.

    Args:
        module: says which keys and shapes there must be; abstract (`nnx.eval_shape`) or real. It is
            not changed.
        path: a safetensors file; tensors may be stored in any floating type.
        dtype: what floating tensors become. Tensors of integers keep the type of the module's.

    Returns:
        Parameters for `nnx.merge`: arrays on the default device.

    Raises:
        ValueError: if the file cannot be read, if it lacks a key, has one too many, or holds a
            tensor of another shape. The message names file and keys.
    """
    wanted, found = parameters(module), read_safetensors(path)
    shapes = {key: tuple(leaf.shape) for key, leaf in _flatten(wanted).items()}
    check_fit(shapes, {key: leaf.shape for key, leaf in found.items()}, module, path)

    def take(key_path: tuple, leaf: Any) -> Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(found[_dotted(key_path)], dtype if floating else leaf.dtype)

    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        return jax.tree_util.tree_map_with_path(take, wanted)


def save_safetensors(
    params: PyTree,
    path: str | os.PathLike[str],
    *,
    dtype: Any | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes parameters to a file; it is either replaced as a whole or left as it was.

    Args:
        params: nested dictionaries of arrays (see `parameters`), or a module.
        path: where to; its folder must exist.
        dtype: what floating tensors are stored as; None keeps their type.
        metadata: notes that go into the file.
    """
    if isinstance(params, nnx.Module):
        params = parameters(params)
    tensors = {}
    for key, leaf in _flatten(params).items():
        cast = dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
        tensors[key] = np.asarray(leaf, dtype if cast else None, order="C")
    path = Path(path)
    # A name of its own in the same folder: renaming is atomic within one file system only.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by key.

    Raises:
        ValueError: if it cannot be read. The message names it.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read weights from {path}: {error}") from error


def check_fit(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    module: nnx.Module,
    source: str | os.PathLike[str],
) -> None:
    """Refuses the keys and shapes that a source has, unless they are those that a module wants.

    Raises:
        ValueError: naming the source, and the keys that are missing, unknown or mis-shaped.
    """
    shapes = [
        f"{key} {found[key]} instead of {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    differences = {
        "missing": [key for key in wanted if key not in found],
        "unknown": [key for key in found if key not in wanted],
        "mis-shaped": shapes,
    }
    problems = [f"{what}: {_listed(keys)}" for what, keys in differences.items() if keys]
    if problems:
        raise ValueError(
            f"{source} does not hold the weights of {type(module).__name__}; " + "; ".join(problems)
        )


def _dotted(key_path: tuple) -> str:
    return ".".join(str(part.key) for part in key_path)


def _flatten(params: PyTree) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {_dotted(key_path): leaf for key_path, leaf in leaves}


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
