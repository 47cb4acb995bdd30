"""ADM's classifier as a verifier: probabilities, ranges, and what it refuses."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.adm_classifier import PUBLISHED, build, from_guided_diffusion
from jaxsearch.models.loading import abstract_module, functional
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.verifiers.adm_classifier import adm_classifier
from tests.jitted import called
from tests.models.test_adm_classifier import Reference
from tests.verifiers.pictures import assorted

SMALL = AdmConfig(
    image_size=16, out_channels=5, model_channels=32, channel_mult=(1, 1), num_res_blocks=1,
    attention_resolutions=(), head_channels=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the published form, of a small network in the place of the published one."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("adm") / "64x64_classifier.pt"
    tensors = Reference(SMALL).weights
    torch.save({key: torch.from_numpy(one) for key, one in tensors.items()}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHED, "64x64_classifier", SMALL)
        yield str(path)


@pytest.mark.parametrize(
    ("input_range", "scale", "shift"), [("trained", 2, -1), ("reference", 1, 0)]
)
def test_the_score_is_the_probability_of_the_label(weights, input_range, scale, shift):
    """Kills: the other range; another time; the first class always."""
    levels = jnp.round(255 * assorted(16, 16)) / 255
    verifier = adm_classifier(weights=weights, input_range=input_range, time=12.0)
    label = jnp.array([0, 4, 1, 2, 3, 3])
    found = called(verifier, levels, {"label": label})
    tensors = from_guided_diffusion(Reference(SMALL).weights, SMALL)
    abstract = abstract_module(build(SMALL))
    params = load_state_dict(abstract, tensors, source="test")
    logits = jax.jit(functional(build(SMALL)))(params, scale * levels + shift, jnp.full(6, 12.0))
    wanted = jax.nn.softmax(logits)[jnp.arange(6), label]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_equal_settings_are_one_program_and_one_set_of_weights(weights):
    one, other = adm_classifier(weights=weights), adm_classifier(weights=weights, time=0)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a is b
    assert one.apply is not adm_classifier(weights=weights, path="float").apply


def test_a_file_that_changed_is_read_again(weights, tmp_path):
    """Kills: weights that are kept by their path alone."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "classifier.pt"
    before = torch.load(weights)
    torch.save(before, path)
    one = adm_classifier(weights=str(path))
    torch.save({key: 2 * tensor for key, tensor in before.items()}, path)
    other = adm_classifier(weights=str(path))
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    assert not any(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ""}, "give the path of guided-diffusion's 64x64_classifier.pt as `weights`"),
        ({"weights": "none.pt"}, "cannot read none.pt"),
        ({"checkpoint": "x"}, "checkpoint is 'x': pass '64x64_classifier' or"),
        ({"input_range": "x"}, "input_range is 'x': pass 'trained' or 'reference'"),
        ({"time": -1.0}, "time is -1.0: it must lie in [0, 999]"),
        ({"path": "x"}, "path is 'x': pass '8bit' or 'float'"),
        ({"dtype": "float64"}, "dtype is float64: it must be float32 or bfloat16"),
    ],
)
def test_bad_settings(weights, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        adm_classifier(**{"weights": weights, **settings})
    assert "\n" not in str(error.value)
