"""Small checkpoints of all published verifiers, in files of their published forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxsearch.models import image_reward, open_clip
from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.adm_classifier import PUBLISHED as ADM_CLASSIFIERS
from jaxsearch.models.blip import BlipTextConfig, BlipVisionConfig
from jaxsearch.models.clip import ClipConfig
from jaxsearch.models.clip_text import ClipTextConfig
from jaxsearch.models.clip_vision import ClipVisionConfig
from jaxsearch.verifiers import inception
from tests.models import classifiers
from tests.models.pipelines import END, START, vocabulary, write_tokenizer
from tests.models.published import written
from tests.models.test_adm_classifier import Reference as AdmReference
from tests.models.test_bert_tokenizer import SIZE as BERT_SIZE
from tests.models.test_bert_tokenizer import write_vocabulary
from tests.models.test_image_reward import saved as save_image_reward
from tests.models.test_inception import NARROW
from tests.models.test_inception import Reference as InceptionReference
from tests.models.test_open_clip import saved as save_open_clip

CLASSES = 10  # as many as there are digits
SIDE, LENGTH, FEATURES = 20, 16, 13
_ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_ADM = AdmConfig(
    image_size=16, out_channels=CLASSES, model_channels=32, channel_mult=(1, 1), num_res_blocks=1,
    attention_resolutions=(), head_channels=16,
)  # fmt: skip


_TEXT = {**_ENCODER, "vocab_size": len(vocabulary()), "max_position_embeddings": LENGTH}
_IMAGES = {**_ENCODER, "image_size": SIDE, "patch_size": 5}
OPEN_CLIP = ClipConfig(
    text=ClipTextConfig(**_TEXT, hidden_act="gelu"),
    vision=ClipVisionConfig(**_IMAGES, hidden_act="gelu"),
    projection_dim=FEATURES,
    end=None,
)

IMAGE_REWARD = image_reward.ImageRewardConfig(
    BlipVisionConfig(**_IMAGES), BlipTextConfig(**_ENCODER, vocab_size=BERT_SIZE)
)


def clip(folder: Path) -> tuple[Any, Path]:
    """A CLIP of transformers and the folder it was written to, with its tokenizer."""
    import transformers

    known = vocabulary()
    text = {
        **_TEXT, "bos_token_id": known[START], "eos_token_id": known[END],
    }  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config=_IMAGES,
        projection_dim=FEATURES,
    )
    model, _ = written(transformers.CLIPModel(config), folder)
    write_tokenizer(folder, padding=END, length=LENGTH)
    return model, folder


def siglip(folder: Path) -> Path:
    """A SigLIP of transformers with its tokenizer, whose tokens are letters."""
    import tokenizers
    import transformers

    config = transformers.SiglipConfig(
        text_config={**_ENCODER, "vocab_size": 50, "max_position_embeddings": LENGTH,
                     "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
        vision_config={**_ENCODER, "image_size": SIDE, "patch_size": 5},
    )  # fmt: skip
    _, folder = written(transformers.SiglipModel(config), folder)
    letters = [(letter, -5.0) for letter in "0123456789abcdefghijklmnopqrstuvwxyz"]
    pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *letters]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=1))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True, "eos_token": "</s>",
                "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": LENGTH}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def dinov2(folder: Path) -> Path:
    """A DINOv2 of transformers with its classifier; its patches are large, so it is quick."""
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56,
        patch_size=28, num_labels=CLASSES,
    )  # fmt: skip
    return written(transformers.Dinov2ForImageClassification(config), folder)[1]


def aesthetic_head(path: Path, features: int, *, version: str) -> dict[str, Any]:
    """The five layers of a predictor: LAION's second, or version "2.5"."""
    import torch

    rng, layers = np.random.default_rng(0), {}
    prefix, places = {"2": ("layers", (0, 2, 4, 6, 7)), "2.5": ("scoring_head", (0, 2, 4, 6, 8))}[
        version
    ]
    widths = (features, 16, 8, 8, 4, 1)
    for place, inner, outer in zip(places, widths, widths[1:], strict=False):
        weight, bias = rng.normal(size=(outer, inner)) / 2, rng.normal(size=outer)
        layers[f"{prefix}.{place}.weight"] = torch.from_numpy(weight).float()
        layers[f"{prefix}.{place}.bias"] = torch.from_numpy(bias).float()
    torch.save(layers, path)
    return layers


def write_all(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Writes them all; returns the settings of each verifier that read them, by a name of theirs.

    What is published in one size only is small while `patch` holds.
    """
    import torch

    clip(folder / "clip")
    siglip(folder / "siglip")
    dinov2(folder / "dinov2")
    aesthetic_head(folder / "head.pth", FEATURES, version="2")
    aesthetic_head(folder / "head_2_5.pth", 16, version="2.5")
    (folder / "classes.txt").write_text("".join(f"the {name}\n" for name in "abcdefghij"))
    patch.setattr(open_clip, "VIT_H_14", OPEN_CLIP)
    save_open_clip(folder / "hps.pt", OPEN_CLIP)
    patch.setattr(image_reward, "PUBLISHED", IMAGE_REWARD)
    save_image_reward(folder / "image_reward.pt", IMAGE_REWARD)
    (folder / "bert").mkdir()
    write_vocabulary(folder / "bert")
    patch.setitem(ADM_CLASSIFIERS, "64x64_classifier", _ADM)
    tensors = AdmReference(_ADM).weights
    torch.save({key: torch.from_numpy(one) for key, one in tensors.items()}, folder / "adm.pt")
    resnet = classifiers.reference(
        "resnet", num_labels=CLASSES, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
        layer_type="basic",
    )  # fmt: skip
    classifiers.write(resnet, "resnet", folder / "resnet.pth")
    patch.setattr(inception, "CONFIG", NARROW)
    patch.setattr(inception, "SIDE", 79)
    reference = InceptionReference(NARROW.narrower, NARROW.num_classes)
    reference(np.zeros((1, 79, 79, 3), np.float32))
    torch.save(reference.weights, folder / "inception.pth")
    synsets = (f'target_class: {i + 1}\n target_class_string: "n{i:08d}"' for i in range(CLASSES))
    (folder / "map.txt").write_text("".join(f"entry {{ {one} }}\n" for one in synsets))
    at = {path.stem: str(path) for path in folder.iterdir()}
    return {
        "adm_classifier": {"weights": at["adm"]},
        "aesthetic": {"weights": at["clip"], "head": at["head"]},
        "aesthetic 2.5": {"weights": at["siglip"], "head": at["head_2_5"]},
        "clip_score": {"weights": at["clip"]},
        "clip_score of Ma et al.": {"weights": at["clip"], "form": "clip_score"},
        "dinov2_classifier": {"weights": at["dinov2"]},
        "hps": {"weights": at["hps"], "tokenizer": at["clip"]},
        "hps antialiased": {"weights": at["hps"], "tokenizer": at["clip"], "antialias": True},
        "image_reward": {"weights": at["image_reward"], "tokenizer": at["bert"]},
        "inception": {"weights": at["inception"], "label_map": at["map"]},
        "pick_score": {"weights": at["clip"]},
        "self_supervised": {"weights": at["dinov2"]},
        "self_supervised by CLIP": {"weights": at["clip"]},
        "self_supervised by SigLIP": {"weights": at["siglip"]},
        "siglip_score": {"weights": at["siglip"], "score": "logit"},
        "torchvision_classifier": {"weights": at["resnet"], "size": 16, "short_side": 18},
        "zero_shot": {"weights": at["clip"], "classes": at["classes"]},
        "zero_shot probability": {
            "weights": at["clip"],
            "classes": at["classes"],
            "score": "probability",
        },
    }


NAMES = (
    "adm_classifier",
    "aesthetic",
    "aesthetic 2.5",
    "clip_score",
    "clip_score of Ma et al.",
    "dinov2_classifier",
    "hps",
    "hps antialiased",
    "image_reward",
    "inception",
    "pick_score",
    "self_supervised",
    "self_supervised by CLIP",
    "self_supervised by SigLIP",
    "siglip_score",
    "torchvision_classifier",
    "zero_shot",
    "zero_shot probability",
)
"""The keys of `write_all`, before anything is written."""
