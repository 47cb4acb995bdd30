"""Where verifiers have their weights from: files that their users give."""

from __future__ import annotations

import os

import numpy as np

from jaxsearch.models.loading import read_safetensors
from jaxsearch.models.pickles import read_state_dict


def read_weights(name: str, path: str | os.PathLike[str], published: str) -> dict[str, np.ndarray]:
    """The tensors of a state dict by key, from safetensors or from what PyTorch saved.

    Args:
        name: of the verifier, for messages.
        path: the file.
        published: what it is called where it can be had, for messages.

    Raises:
        ValueError: if no file is given, or it cannot be read. The message says which.
    """
    if not os.fspath(path):
        raise ValueError(f"{name} comes without weights: give the path of {published} as `weights`")
    return read_safetensors(path) if str(path).endswith(".safetensors") else read_state_dict(path)
