"""Pipelines of diffusers from the Hugging Face hub, by their id."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from jaxsearch.models.folders import OF_DIFFUSERS, OF_TRANSFORMERS

_CONFIGS = (
    "model_index.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer/*",
)
_WEIGHTS = {
    "transformer": OF_DIFFUSERS,
    "unet": OF_DIFFUSERS,
    "vae": OF_DIFFUSERS,
    "text_encoder": OF_TRANSFORMERS,
}
"""By part of a pipeline: its file of weights. Nothing else of a repository is read."""


_FORM = r"(?!\.)(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?"


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id: `owner/repository`, perhaps with `@revision`."""
    return re.fullmatch(_FORM, name) is not None


def pinned(name: str) -> str:
    """An id with the commit that was fetched, so that it stands for the same files for good.

    Raises:
        ValueError: if it cannot be had.
    """
    folder, found = fetched(name), re.fullmatch(_FORM, name)
    assert found is not None
    # The hub's library keeps each commit in `snapshots/<commit>`.
    return f"{found['repository']}@{folder.name}" if folder.parent.name == "snapshots" else name


@functools.cache  # a run asks for its model several times
def fetched(name: str) -> Path:
    """The folder that a repository of the hub was fetched to; from the second time on it is there.

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
        found = re.fullmatch(_FORM, name)
        assert found is not None
        safe = [f"{part}/{names.safe}" for part, names in _WEIGHTS.items()]
        fetch = functools.partial(
            huggingface_hub.snapshot_download, found["repository"], revision=found["revision"]
        )
        folder = Path(fetch(allow_patterns=[*_CONFIGS, *safe]))
        # Older repositories have some weights in PyTorch's own format only.
        older = [
            f"{part}/{names.older}"
            for part, names in _WEIGHTS.items()
            if (folder / part).is_dir() and not (folder / part / names.safe).exists()
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
