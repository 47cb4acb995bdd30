"""Verifiers, one a file. One that serves every model is its file and its line here.

Verifiers that belong to one model (a classifier of its labels) are offered by that model's entry in
`jaxsearch.zoo`.
"""

from jaxsearch.verifiers.brightness import brightness
from jaxsearch.verifiers.jpeg import compressibility

VERIFIERS = {
    "brightness": brightness,
    "compressibility": compressibility,
}

__all__ = ["VERIFIERS", "brightness", "compressibility"]
