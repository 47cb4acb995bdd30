"""A network of a pipeline, from the folder of its own that `diffusers` wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flax import nnx

from jaxsearch.core.types import PyTree
from jaxsearch.models.folders import read_config, read_weights, weights_path
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_network
from jaxsearch.models.state_dict import load_state_dict

Config = TypeVar("Config")


def load_network(
    folder: str | os.PathLike[str],
    config_of: Callable[[Mapping[str, Any]], Config],
    network: Callable[..., nnx.Module],
    *,
    dtype: Any,
) -> tuple[Config, PyTree]:
    """What a network is made of, and its weights where they belong (`models.placing`).

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`, in one file or in
            several with an index.
        config_of: the entries of the config to what the network is made of.
        network: `(config, dtype=, rngs=) -> module`, whose attributes have the names of the keys.
        dtype: float32 or bfloat16: what the weights become, normalisations apart.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config, kind = config_of(read_config(folder)), compute_type(dtype)
    module = abstract_network(network, config, dtype=kind)
    return config, load_state_dict(module, read_weights(folder), source=weights_path(folder))
