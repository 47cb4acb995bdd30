"""CLIP from state dicts under the names of OpenCLIP, which HPS v2 is published with.

The network is that of `models/clip.py`. A state dict says nothing of the number of heads, of the
activation and of normalisations, so what it is made of is given beside it.

Reference: Ilharco, Wortsman, Wightman et al., *OpenCLIP*, 2021,
https://github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsearch.models.clip import ClipConfig, LoadedClip, clip_of_tensors
from jaxsearch.models.clip_text import ClipTextConfig
from jaxsearch.models.clip_vision import ClipVisionConfig
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import loaded_once
from jaxsearch.models.pickles import read_state_dict

VIT_H_14 = ClipConfig(
    text=ClipTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        hidden_act="gelu",
    ),
    vision=ClipVisionConfig(
        patch_size=14,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        hidden_act="gelu",
    ),
    projection_dim=1024,
    end=None,  # of a text is its largest token
)
"""ViT-H/14: 80 features for each head of images and 64 for those of texts."""

_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_OF_A_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OTHERS = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    **{
        f"{theirs}.{leaf}": f"{ours}.{leaf}"
        for theirs, ours in (
            ("visual.ln_pre", "vision_model.pre_layrnorm"),
            ("visual.ln_post", "vision_model.post_layernorm"),
            ("ln_final", "text_model.final_layer_norm"),
        )
        for leaf in ("weight", "bias")
    },
}
# Stored as they are multiplied from the right: [in, out].
_TURNED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def from_open_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of OpenCLIP under the names that `models/clip.py` has for them.

    Its layers of queries, keys and values are one, in that order, and its projections lie on their
    side. A name that is not known is kept, for whoever loads the tensors to refuse.
    """
    renamed: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        if key in _TURNED:
            renamed[_TURNED[key]] = tensor.T
            continue
        found = re.fullmatch(r"((?:visual\.)?transformer\.resblocks\.)(\d+)\.(.+)", key)
        if found is None:
            renamed[_OTHERS.get(key, key)] = tensor
            continue
        layer, part = f"{_TOWERS[found[1]]}{found[2]}", found[3]
        joint = re.fullmatch(r"attn\.in_proj_(weight|bias)", part)
        if joint is not None and len(tensor) % 3 == 0:
            for name, own in zip("qkv", np.split(tensor, 3), strict=True):
                renamed[f"{layer}.self_attn.{name}_proj.{joint[1]}"] = own
            continue
        name, _, leaf = part.rpartition(".")
        renamed[f"{layer}.{_OF_A_LAYER[name]}.{leaf}" if name in _OF_A_LAYER else key] = tensor
    return renamed


@loaded_once
def load_open_clip(
    path: str | os.PathLike[str],
    config: ClipConfig,
    *,
    entry: str | None = None,
    dtype: Any = "float32",
) -> LoadedClip:
    """Reads a CLIP from a file that PyTorch saved under the names of OpenCLIP.

    Args:
        path: the file.
        config: what it is made of.
        entry: which entry of the file holds the weights; None if they are all of it.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device: the same objects for as long as
        the file does not change.

    Raises:
        ValueError: if the file cannot be read, or a tensor is missing, unknown or of another shape.
            The message names it.
    """
    tensors = from_open_clip(read_state_dict(path, name=entry))
    return clip_of_tensors(config, tensors, source=path, dtype=compute_type(dtype))
