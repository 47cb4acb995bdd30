"""Reference networks of `diffusers`: random weights, their files, and how far apart outputs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def randomised(reference: Any) -> Any:
    """A PyTorch network with all weights random.

    What training begins with is full of zeros and ones (gates, scales, biases), which would hide
    whatever they multiply or add to.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in reference.named_parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 4
            weight.normal_(generator=generator).mul_(fan_in**-0.5)
            if "norm" in key and key.endswith("weight") and weight.ndim == 1:
                weight.add_(1.0)
    return reference.eval().requires_grad_(False)


def written(reference: Any, folder: Path) -> tuple[Any, Path]:
    """A PyTorch network with all weights random, and the folder it was written to."""
    randomised(reference).save_pretrained(folder)
    return reference, folder


def to_torch(values: Any) -> Any:
    """[n, h, w, c] as PyTorch's [n, c, h, w]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(values))).permute(0, 3, 1, 2)


def relative(found: Any, wanted: Any) -> float:
    """Largest difference over largest value; PyTorch's [n, c, h, w] is turned round."""
    if hasattr(wanted, "permute"):
        wanted = wanted.permute(0, 2, 3, 1).numpy()
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))
