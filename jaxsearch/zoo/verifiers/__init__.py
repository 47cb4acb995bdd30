"""Published verifiers as the command offers them, one a file: where their weights are is a setting.

One joins by its file and its line in `PUBLISHED`. Its factory gives a `Verifier`, or a `Prompted`
where it reads the prompts' words.
"""

from collections.abc import Callable
from typing import Any

from jaxsearch.verifiers.adm_classifier import adm_classifier
from jaxsearch.verifiers.inception import inception
from jaxsearch.verifiers.torchvision_classifier import torchvision_classifier
from jaxsearch.zoo.verifiers.aesthetic import aesthetic
from jaxsearch.zoo.verifiers.clip_score import clip_score
from jaxsearch.zoo.verifiers.dinov2_classifier import dinov2_classifier
from jaxsearch.zoo.verifiers.prompted import FILES, Prompted, files_of, located
from jaxsearch.zoo.verifiers.siglip_score import siglip_score

PUBLISHED: dict[str, Callable[..., Any]] = {
    "adm_classifier": adm_classifier,
    "aesthetic": aesthetic,
    "clip_score": clip_score,
    "dinov2_classifier": dinov2_classifier,
    "inception": inception,
    "siglip_score": siglip_score,
    "torchvision_classifier": torchvision_classifier,
}

__all__ = ["FILES", "PUBLISHED", "Prompted", "files_of", "located"]
