"""Published verifiers as the command offers them, one a file: where their weights are is a setting.

One joins by its file and its line in `PUBLISHED`. Its factory gives a `Verifier`; or a `Prompted`
where it reads the prompts' words, an `Early` where it reads a clean estimate.
"""

from collections.abc import Callable
from typing import Any

from jaxsearch.verifiers.adm_classifier import adm_classifier
from jaxsearch.verifiers.inception import inception
from jaxsearch.verifiers.torchvision_classifier import torchvision_classifier
from jaxsearch.zoo.verifiers.aesthetic import aesthetic
from jaxsearch.zoo.verifiers.clip_score import clip_score
from jaxsearch.zoo.verifiers.dinov2_classifier import dinov2_classifier
from jaxsearch.zoo.verifiers.hps import hps
from jaxsearch.zoo.verifiers.image_reward import image_reward
from jaxsearch.zoo.verifiers.pick_score import pick_score
from jaxsearch.zoo.verifiers.prompted import FILES, Early, Prompted, files_of, located
from jaxsearch.zoo.verifiers.self_supervised import self_supervised
from jaxsearch.zoo.verifiers.siglip_score import siglip_score
from jaxsearch.zoo.verifiers.zero_shot import zero_shot

PUBLISHED: dict[str, Callable[..., Any]] = {
    "adm_classifier": adm_classifier,
    "aesthetic": aesthetic,
    "clip_score": clip_score,
    "dinov2_classifier": dinov2_classifier,
    "hps": hps,
    "image_reward": image_reward,
    "inception": inception,
    "pick_score": pick_score,
    "self_supervised": self_supervised,
    "siglip_score": siglip_score,
    "torchvision_classifier": torchvision_classifier,
    "zero_shot": zero_shot,
}

__all__ = ["FILES", "PUBLISHED", "Early", "Prompted", "files_of", "located", *PUBLISHED]
