"""DINOv2's linear classifier as the command offers it."""

from __future__ import annotations

import math
from typing import Literal

from jaxsearch.core.types import Verifier
from jaxsearch.models.dinov2 import dinov2_classifier_network
from jaxsearch.models.dinov2_folder import load_dinov2, load_dinov2_head
from jaxsearch.verifiers import dinov2_classifier as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import dinov2_images
from jaxsearch.zoo.verifiers.prompted import checkpoint, naming


@facts(
    Facts(
        (-math.inf, math.inf),
        "path=float",
        ("label",),
        "facebook/dinov2-base-imagenet1k-1-layer and others",
        "Apache-2.0",
    )
)
def dinov2_classifier(
    *,
    weights: str = "",
    head: str = "",
    score: Literal["logit", "probability"] = "logit",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Verifier:
    """Rewards images of the class that was asked for, of ImageNet's 1000: DINOv2's classifier.

    Images are resized, bicubic, to a shorter side of 256, and cut to 224x224, as Pillow does.

    Args:
        weights: a folder of transformers with its classifier, such as
            `facebook/dinov2-base-imagenet1k-1-layer` (Apache-2.0), or its id on the Hugging Face
            hub; or a file of Meta's, such as `dinov2_vitb14_pretrain.pth`.
        head: the classifier of a file of Meta's, such as `dinov2_vitb14_linear_head.pth`.
        score: the `"logit"` of the class, by which Ma et al. 2025 choose; or its `"probability"`.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.
    """
    source = checkpoint("dinov2_classifier", weights, "facebook/dinov2-base-imagenet1k-1-layer")
    with naming(source):
        network = load_dinov2(source, dtype=dtype)
    linear = network.head
    if head:
        linear = load_dinov2_head(head, hidden_size=network.config.hidden_size)
    if linear is None:
        raise ValueError(
            f"{weights} has no classifier: give one, such as dinov2_vitb14_linear_head.pth, by "
            "--verifiers.dinov2_classifier.head"
        )
    return scores.dinov2_classifier(
        "dinov2_classifier",
        dinov2_classifier_network(
            network.config, linear.layers, linear.num_classes, dtype=dtype, remat=remat
        ),
        {"backbone": network.params, "head": linear.params},
        preprocess=dinov2_images(path),
        score=score,
        num_labels=linear.num_classes,
    )
