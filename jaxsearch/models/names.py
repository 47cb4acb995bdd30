"""What files of weights are called in published folders."""

from __future__ import annotations

from typing import NamedTuple


class WeightsFile(NamedTuple):
    """How a part of a pipeline names its weights."""

    safe: str
    older: str  # in PyTorch's own format, where there is no other


OF_DIFFUSERS = WeightsFile("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
OF_TRANSFORMERS = WeightsFile("model.safetensors", "pytorch_model.bin")

INDEX = ".index.json"
"""What follows the name where weights are in several files: which file has which tensor."""
