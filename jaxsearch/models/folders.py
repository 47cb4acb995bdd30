"""Folders of published weights as `diffusers` writes them: a config beside a safetensors file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jaxsearch.models.configs import read_json
from jaxsearch.models.names import INDEX, OF_DIFFUSERS, WeightsFile
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.placing import shapes_alone
from jaxsearch.models.stored import Tensor, stored_safetensors


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of a folder's `config.json`.

    Raises:
        ValueError: if it cannot be read, or holds no entries. The message names it.
    """
    return read_json(Path(folder) / "config.json")


def weights_path(folder: str | os.PathLike[str], names: WeightsFile = OF_DIFFUSERS) -> Path:
    """Where a folder has its weights: safetensors, or PyTorch's own format where there are none.

    Of weights that are in several files it is the index that says which.
    """
    ways = [name + ending for name in names for ending in ("", INDEX)]
    found = [Path(folder) / way for way in ways if (Path(folder) / way).exists()]
    return found[0] if found else Path(folder) / names.safe


def _shards(index: Path) -> list[Path]:
    """The files that hold the weights of an index."""
    places = read_json(index).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    # A name with a folder in it would lead out of the checkpoint.
    if not names or not all(isinstance(one, str) and Path(one).name == one for one in names):
        raise ValueError(f"{index} does not say which file holds which weight (weight_map)")
    return [index.parent / name for name in sorted(names)]


def read_weights(
    folder: str | os.PathLike[str], names: WeightsFile = OF_DIFFUSERS
) -> dict[str, Tensor]:
    """The tensors of a folder by key; those of safetensors stay in their file until wanted.

    Where shapes alone are wanted (`placing`) there are none, and there need be no file.

    Raises:
        ValueError: if they cannot be read. The message names the file.
    """
    if shapes_alone():
        return {}
    path = weights_path(folder, names)
    tensors: dict[str, Tensor] = {}
    for part in _shards(path) if path.name.endswith(INDEX) else [path]:
        tensors |= read_state_dict(part) if part.suffix == ".bin" else stored_safetensors(part)
    return tensors


def part_files(
    folder: str | os.PathLike[str], part: str, names: WeightsFile = OF_DIFFUSERS
) -> tuple[str, ...]:
    """A part's config and weights, as a pipeline's folder names them: `unet/config.json`.

    Raises:
        ValueError: if the weights are in several files and their index cannot be read.
    """
    path = weights_path(Path(folder) / part, names)
    shards = _shards(path) if path.name.endswith(INDEX) else []
    return tuple(f"{part}/{name}" for name in ("config.json", *(p.name for p in [path, *shards])))


def check_entries(
    entries: Mapping[str, Any],
    *,
    needed: Collection[str],
    optional: Collection[str] = (),
    fixed: Mapping[str, tuple[Any, ...]],
) -> None:
    """Refuses a config that asks for something else than is computed here.

    Entries that begin with an underscore are the writer's own notes, except `_class_name`.

    Args:
        entries: of a config.
        needed: which there must be; whoever reads them checks their values.
        optional: which there may be.
        fixed: which there may be with one of these values only.

    Raises:
        ValueError: naming the first entry that is missing, unknown or of another value.
    """
    for name in needed:
        if name not in entries:
            raise ValueError(f"the config has no entry {name!r}")
    for name, value in entries.items():
        if name in fixed:
            if not any(type(value) is type(known) and value == known for known in fixed[name]):
                known = " or ".join(map(repr, fixed[name]))
                raise ValueError(f"the config's {name} is {value!r}: only {known} is supported")
        elif name not in needed and name not in optional and not name.startswith("_"):
            raise ValueError(f"the config's entry {name!r} (it is {value!r}) is not known")


OF_ANY_MODEL = (
    # How it was trained, stored and called.
    *("initializer_factor", "initializer_range", "dtype", "torch_dtype", "transformers_version"),
    *("chunk_size_feed_forward", "finetuning_task", "output_attentions", "output_hidden_states"),
    *("problem_type", "return_dict", "tf_legacy_loss", "tie_encoder_decoder", "torchscript"),
    *("tie_word_embeddings", "tokenizer_class", "use_bfloat16", "task_specific_params", "prefix"),
    # How texts are generated, which nothing here does.
    *("bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty"),
    *("do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "forced_bos_token_id"),
    *("exponential_decay_length_penalty", "forced_eos_token_id", "length_penalty", "max_length"),
    *("min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "output_scores"),
    *("num_return_sequences", "remove_invalid_values", "repetition_penalty", "suppress_tokens"),
    *("return_dict_in_generate", "temperature", "top_k", "top_p", "typical_p"),
    # Names of classes, and tokens whose place is the tokenizer's.
    *("id2label", "label2id", "bos_token_id", "pad_token_id", "sep_token_id"),
)
"""Entries that `transformers` wrote into every config, which change no encoder's output."""

PLAIN_ENCODER: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_dropout": (0.0, 0),
    "cross_attention_hidden_size": (None,),
    "dropout": (0.0, 0),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
}
"""Entries of any config that would change an encoder's output, and their values that do not."""


def part_of_config(entries: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The entries of a part of a config; none where nothing is said of it.

    Raises:
        ValueError: if something else is.
    """
    value = entries.get(name)
    if not isinstance(value, Mapping | None):
        raise ValueError(f"the config's {name} is {value!r}: it must hold entries")
    return value or {}


def number(entries: Mapping[str, Any], name: str, absent: float) -> float:
    """An entry that is a number, or what stands for its absence.

    Raises:
        ValueError: if it is there and is none.
    """
    value = entries.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the config's {name} is {value!r}: it must be a number")
    return float(value)


def rename(tensors: Mapping[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors under other names.

    Raises:
        ValueError: if two come to have one name. The message says which.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if name(key) in renamed:
            raise ValueError(f"two tensors stand for {name(key)}; one of them is {key}")
        renamed[name(key)] = tensor
    return renamed
