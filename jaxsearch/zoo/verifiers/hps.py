"""HPS v2 and v2.1 as the command offers them."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from typing import Literal

from jaxsearch.core.types import Array
from jaxsearch.models import open_clip
from jaxsearch.models.clip import clip_image_network
from jaxsearch.verifiers import resize
from jaxsearch.verifiers.clip_score import clip_score
from jaxsearch.verifiers.embeddings import Preprocess
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import CLIP_MEAN, CLIP_STD, clip_texts
from jaxsearch.zoo.verifiers.prompted import Prompted, checkpoint, naming, tokenizer_folder

_QUOTES = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc", "'"),
     **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)  # fmt: skip


@facts(
    Facts(
        (-1, 1),
        "path=float",
        ("prompt",),
        "HPS_v2_compressed.pt or HPS_v2.1_compressed.pt (xswu/HPSv2)",
        "Apache-2.0",
    )
)
def hps(
    *,
    weights: str = "",
    tokenizer: str = "",
    antialias: bool = False,
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Prompted:
    """Rewards images that people would prefer for their prompt: HPS v2, mostly 0.14 to 0.34.

    It is the cosine of the embeddings of both, of which tables show a hundredfold. Images are seen
    whole: resized, bicubic, until the longer side fits, with black beside the shorter one.

    Args:
        weights: the file `HPS_v2_compressed.pt` or `HPS_v2.1_compressed.pt` of `xswu/HPSv2`
            (Apache-2.0). Scores of one cannot be compared with the other's.
        tokenizer: where CLIP's vocabulary is: a folder with `tokenizer.json`, or `vocab.json` and
            `merges.txt`, or an id on the Hugging Face hub, such as `openai/clip-vit-large-patch14`.
        antialias: whether resizing widens its filter where an image shrinks. The published package
            leaves that to torchvision: from 0.17 on (January 2024) it does; before, when HPS v2 was
            trained and its scores were published, it did not.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights or no vocabulary, or of something else; if a setting is
            unknown.

    Reference:
        Wu et al., Human Preference Score v2, 2023.
    """
    file = checkpoint("hps", weights, "HPS_v2.1_compressed.pt")
    if not tokenizer:
        raise ValueError(
            "hps comes without a vocabulary: give the folder or id of one, such as "
            "openai/clip-vit-large-patch14, by --verifiers.hps.tokenizer"
        )
    words = tokenizer_folder(tokenizer)
    with naming(file):
        clip = open_clip.load_open_clip(file, open_clip.VIT_H_14, entry="state_dict", dtype=dtype)
    verifier = clip_score(
        "hps",
        clip_image_network(clip.config, dtype=dtype, remat=remat),
        clip.images,
        preprocess=_images(clip.config.vision.image_size, bool(antialias), path),
        text="hps_text",
    )
    encode = clip_texts(clip, words, dtype=dtype)

    def context(prompts: Sequence[str]) -> dict[str, Array]:
        return {verifier.needs[0]: encode([_plain(text) for text in prompts])}

    return Prompted(verifier, context)


def _plain(text: str) -> str:
    """A prompt as OpenCLIP has it before it is cut into tokens: no entities, straight quotes.

    OpenCLIP also repairs text that was decoded wrongly (by `ftfy`), which is not done here.
    """
    if "<" not in text:  # so does `ftfy`, before it has the quotes straight
        text = html.unescape(text)
    return html.unescape(html.unescape(text.translate(_QUOTES)))


@functools.cache
def _images(size: int, antialias: bool, path: resize.Path) -> Preprocess:
    return functools.partial(
        resize.preprocess_whole,
        size=size,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        antialias=antialias,
        path=path,
    )
