"""Pipelines, encoders and vocabularies from the Hugging Face hub, by their id."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

from jaxsearch.models.bert_tokenizer import VOCABULARY
from jaxsearch.models.clip_tokenizer import FILES
from jaxsearch.models.names import INDEX, OF_DIFFUSERS, OF_TRANSFORMERS, WeightsFile

Kind = Literal["pipeline", "encoder", "tokenizer"]

_CONFIGS: dict[Kind, tuple[str, ...]] = {
    "pipeline": ("model_index.json", "*/config.json", "scheduler/*.json", "tokenizer*/*"),
    "encoder": (*("config.json", "model-*.safetensors", OF_TRANSFORMERS.safe + INDEX, *FILES),),
    "tokenizer": (VOCABULARY, *FILES),
}
_WEIGHTS: dict[Kind, dict[str, WeightsFile]] = {
    "pipeline": {
        "transformer": OF_DIFFUSERS,
        "unet": OF_DIFFUSERS,
        "vae": OF_DIFFUSERS,
        "text_encoder": OF_TRANSFORMERS,
        "text_encoder_2": OF_TRANSFORMERS,
        "text_encoder_3": OF_TRANSFORMERS,
    },
    "encoder": {".": OF_TRANSFORMERS},
    "tokenizer": {},
}
"""By part of a repository: its file of weights. Nothing else is read."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id: `owner/repository`, perhaps with `@revision`."""
    return re.fullmatch(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./-]+)?", name) is not None


def pinned(name: str, kind: Kind = "pipeline") -> str:
    """An id with the commit that was fetched, so that it stands for the same files for good.

    Raises:
        ValueError: if it cannot be had.
    """
    folder, repository = fetched(name, kind), name.partition("@")[0]
    # The hub's library keeps each commit in `snapshots/<commit>`.
    return f"{repository}@{folder.name}" if folder.parent.name == "snapshots" else name


def _file(part: str, name: str) -> str:
    return name if part == "." else f"{part}/{name}"


def _shards(name: str) -> tuple[str, str]:
    """What a file of weights is where it is several: patterns of its index and of its parts."""
    return name + INDEX, name.replace(".safetensors", "-*.safetensors")


@functools.cache  # a run asks for its model several times
def fetched(name: str, kind: Kind = "pipeline") -> Path:
    """The folder that a repository of the hub was fetched to; from the second time on it is there.

    Args:
        name: its id.
        kind: what of it is wanted.

    Raises:
        ValueError: if it cannot be had; the message says why, in one line.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError(
            f"there is no folder {name}; for a model of the Hugging Face hub install the extra: "
            'pip install "jaxsearch[hf]"'
        ) from error
    try:
        repository, _, revision = name.partition("@")
        weights = {_file(part, one.safe): _file(part, one.older) for part, one in
                   _WEIGHTS[kind].items()}  # fmt: skip
        fetch = functools.partial(
            huggingface_hub.snapshot_download, repository, revision=revision or None
        )
        parts = [shard for name in weights for shard in _shards(name)] if kind == "pipeline" else []
        folder = Path(fetch(allow_patterns=[*_CONFIGS[kind], *weights, *parts]))
        # Older repositories have some weights in PyTorch's own format only.
        older = [
            former
            for safe, former in weights.items()
            if (folder / safe).parent.is_dir()
            and not (folder / safe).exists()
            and not (folder / (safe + INDEX)).exists()
        ]
        return Path(fetch(allow_patterns=older)) if older else folder
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name} and log in with "
            "`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{name}: the Hugging Face hub has no such revision of the model: give a branch, a tag "
            "or a commit after the @"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {name}, and the Hugging Face hub has no such model (or it is "
            "private: log in with `hf auth login`)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        # Also what goes wrong on the way: it is an `OSError` of one kind or another.
        raise ValueError(
            f"there is no folder {name}, and the Hugging Face hub cannot be reached: give the "
            "folder of a model"
        ) from error
