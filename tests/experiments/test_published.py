"""What plans on paper are made of has the published sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.plans import MACHINES, Machine, fit, on_a_chip
from experiments.benchmarks.published import FAMILIES
from jaxsearch.core.plan import Memory

CLIP_L, CLIP_H, CLIP_G, T5 = 123_060_480, 340_387_840, 693_021_440, 4_762_310_656
PLACES = 64 * 64 * 1536  # the part of the table of places that a picture of this size needs
SD3, SD35 = 2_028_328_000 + PLACES, 2_243_171_520 + PLACES
PUBLISHED = {  # network; encoders of texts; a latent; what is told of a text, or the class
    "DDPM++ (EDM), 32": (55_732_739 + 11 * 128, 0, (32, 32, 3), ()),
    "ADM (EDM), 64": (295_899_267, 0, (64, 64, 3), ()),
    "DiT-XL/2, 256": (675_129_632, 0, (32, 32, 4), ()),
    "SiT-XL/2, 256": (675_129_632, 0, (32, 32, 4), ()),
    "SD 1.5, 512": (859_520_964, CLIP_L, (64, 64, 4), (77, 768)),
    "SD 2.1, 768": (865_910_724, CLIP_H, (96, 96, 4), (77, 1024)),
    "SDXL, 1024": (2_567_463_684, CLIP_L + CLIP_G, (128, 128, 4), (77, 2048)),
    "PixArt-Sigma, 1024": (610_856_096, T5, (128, 128, 4), (300, 4096)),
    "SD 3 medium, 1024": (SD3, CLIP_L + CLIP_G + T5, (128, 128, 16), (77 + 256, 4096)),
    "SD 3.5 medium, 1024": (SD35, CLIP_L + CLIP_G + T5, (128, 128, 16), (77 + 256, 4096)),
    "FLUX.1-dev, 1024": (11_901_408_320, CLIP_L + T5, (128, 128, 16), (512, 4096)),
}


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_published_size(name):
    """Kills: a width, a depth, a vocabulary or a condition of a plan that is another model's."""
    model, (network, encoders, latent, told) = FAMILIES[name](), PUBLISHED[name]
    params = model.denoiser.params
    guided = isinstance(params, dict) and "inner" in params
    assert numbers(params["inner"] if guided else params) == network
    assert numbers(model.encoders) == encoders
    assert model.denoiser.shape == latent
    assert max(jax.tree.leaves(model.cond), key=lambda leaf: leaf.size).shape == (1, *told)


def test_what_is_float32_in_any_case():
    """Kills: SDXL's decoder, or Stable Diffusion's encoders of texts, in half of their bytes."""
    model = FAMILIES["SDXL, 1024"]()
    for tree in (model.decoder.params, model.encoders, FAMILIES["SD 1.5, 512"]().encoders):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_as_few_chips_as_will_do():
    """Kills: a copy that is not divided where it must be, or is where it need not be."""
    model = FAMILIES["DiT-XL/2, 256"]()
    whole, half = (on_a_chip((model.denoiser, model.problem.objective), n) for n in (1, 2))
    assert whole / 2 < half < 0.51 * whole
    needed = Memory(weights=whole, state=0, proposals=0, images=10**6, activations=10**6)
    for size, sharing in ((whole, 1), (0.9 * whole, 2), (0.6 * whole, 2)):
        machine = Machine(8, int((size + 3e6) / 0.8) + 1)
        found = fit(model, needed, machine)
        assert (found.sharing, found.weights) == (sharing, whole if sharing == 1 else half)
    assert fit(model, needed, Machine(8, whole // 16)) is None
    assert MACHINES["v5p-8"].chips == 4
