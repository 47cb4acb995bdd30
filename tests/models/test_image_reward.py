"""ImageReward against the BLIP classes of `transformers` at random weights, through its file."""

from __future__ import annotations

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsearch.models.blip import BlipTextConfig, BlipVisionConfig
from jaxsearch.models.image_reward import (
    PUBLISHED,
    ImageReward,
    ImageRewardConfig,
    image_reward_network,
    load_image_reward,
)
from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.verifiers.image_reward import MEAN, STD, image_reward
from tests.models.published import randomised, relative, to_torch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = ImageRewardConfig(
    BlipVisionConfig(
        image_size=17,  # two pixels are left over
        patch_size=5,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        layer_norm_eps=0.02,  # large, so that it shows where it stands
    ),
    BlipTextConfig(
        vocab_size=50,
        hidden_size=36,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=9,
        layer_norm_eps=0.01,
    ),
)
IDS = np.array([[2, 7, 11, 3, -1, -1, -1], [2, 9, 41, 5, 6, 13, 3], [2, 3, -1, -1, -1, -1, -1]])
_OF_IMAGES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("post_layernorm", "norm"),
    ("encoder.layers.", "blocks."),
    ("layer_norm", "norm"),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
)


class Reference(torch.nn.Module):
    """Xu et al. 2023 with `transformers`' encoders, whose attention is told what is padding."""

    def __init__(self, config: ImageRewardConfig) -> None:
        super().__init__()
        vision, text = (dataclasses.asdict(one) for one in (config.vision, config.text))
        self.vision = transformers.BlipVisionModel(transformers.BlipVisionConfig(**vision))
        self.text = transformers.BlipTextModel(
            transformers.BlipTextConfig(**text, encoder_hidden_size=config.vision.hidden_size),
            add_pooling_layer=False,
        )
        widths = (config.text.hidden_size, 30, 12, 8, 6, 1)
        linear = [torch.nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        rest = torch.nn.Identity
        # As they lie in the published file, where dropout has a number too.
        self.head = torch.nn.Sequential(
            linear[0], rest(), linear[1], rest(), linear[2], rest(), linear[3], linear[4]
        )

    def forward(self, images, ids):
        seen = self.vision(pixel_values=images).last_hidden_state
        states = self.text(
            input_ids=ids.clamp(min=0),
            attention_mask=(ids >= 0).long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state
        return (self.head(states[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072

    def weights(self) -> dict:
        """Under the names of `ImageReward.pt`, with what stands there besides."""
        found = {}
        for key, tensor in self.vision.state_dict().items():
            for theirs, ours in _OF_IMAGES:
                key = key.replace(theirs, ours)
            found[f"blip.visual_encoder.{key}"] = tensor
        places = torch.arange(self.text.config.max_position_embeddings)[None]
        found["blip.text_encoder.embeddings.position_ids"] = places
        for key, tensor in self.text.state_dict().items():
            found[f"blip.text_encoder.{key}"] = tensor
        for name in ("vision_proj", "text_proj"):
            found |= {f"blip.{name}.weight": torch.ones(3, 3), f"blip.{name}.bias": torch.ones(3)}
        return found | {f"mlp.layers.{key}": one for key, one in self.head.state_dict().items()}


def saved(path, config=CONFIG):
    """The reference, and its weights in a file of the published form."""
    reference = randomised(Reference(config))
    torch.save(reference.weights(), path)
    return reference


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    path = tmp_path_factory.mktemp("image_reward") / "ImageReward.pt"
    return saved(path), path


def pictures(num: int = 3, side: int = 17) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, side, side, 3)).astype(np.float32)


def tokens(ids=IDS):
    return jnp.asarray(ids, jnp.int32)


def outputs(layers) -> list:
    """What layers give, once they have run."""
    kept = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, given, out: kept.append(out))
    return kept


def test_every_layer_is_that_of_transformers(pair, record_property):
    """Kills: a cross-attention before that of the text, or left out; one gelu for the other;
    normalised before in the text, or after in the image; an epsilon of the other encoder; places or
    the class token left out.
    """
    reference, path = pair
    module = abstract_module(lambda rngs: ImageReward(CONFIG, rngs=rngs))
    blip = nnx.merge(nnx.split(module)[0], load_image_reward(path, CONFIG).params).blip
    images, ids = pictures(), tokens()

    @nnx.jit
    def ours(blip):
        seen, text = blip.visual_encoder, blip.text_encoder
        first, told = seen.tokens(images), text.states(ids)
        last, of_images = seen.blocks.watched(first, lambda x: x)
        rest = text.seen(ids), seen.norm(last)
        _, of_texts = text.encoder.layer.watched(told, lambda x: x, *rest)
        return first, of_images, told, of_texts

    of_images = outputs([reference.vision.embeddings, *reference.vision.encoder.layers])
    of_texts = outputs([reference.text.embeddings, *reference.text.encoder.layer])
    reference(to_torch(images), torch.as_tensor(IDS))
    first, images, told, texts = ours(blip)
    worst = 0.0
    for found, wanted in zip((first, *images), of_images, strict=True):
        worst = max(worst, relative(found, wanted.numpy()))
    rows = IDS >= 0  # what stands beyond a text means nothing
    for found, wanted in zip((told, *texts), of_texts, strict=True):
        worst = max(worst, relative(np.asarray(found)[rows], wanted.numpy()[rows]))
    record_property("relative", worst)
    assert worst < 2e-5


def rewards(path, images, ids, config=CONFIG, **settings):
    loaded = load_image_reward(path, config)
    network = image_reward_network(config, **settings)
    verifier = image_reward(
        "it", network, loaded.params, loaded.weight, loaded.bias, preprocess=jnp.asarray
    )
    score = jax.jit(lambda verifier, images, context: verifier(images, context))
    return score(verifier, jnp.asarray(images), {"image_reward_tokens": tokens(ids)})


def test_rewards_are_those_of_transformers(pair, record_property):
    """Kills: the mean of a text's states, or its last, for the first; the publishers' mean and
    deviation left out; a layer of the head left out; padding that is seen.
    """
    reference, path = pair
    images = pictures()
    found = rewards(path, images, IDS)
    wanted = reference(to_torch(images), torch.as_tensor(IDS)).numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


def test_padding_is_not_seen(pair):
    """A text with and without padding has one reward. Kills: places that are counted as tokens."""
    _, path = pair
    images = pictures()
    padded = rewards(path, images[:1], IDS[:1])
    np.testing.assert_allclose(rewards(path, images[:1], IDS[:1, :4]), padded, rtol=1e-5)
    whole = np.where(IDS < 0, 0, IDS)  # [PAD] as a token of the text
    assert np.abs(rewards(path, images[:1], whole[:1]) - padded).max() > 1e-4


def test_each_text_looks_at_its_own_image(pair):
    _, path = pair
    images = pictures()
    found = rewards(path, images, IDS)
    crossed = rewards(path, images[::-1], IDS)
    assert np.abs(found - crossed)[[0, 2]].min() > 1e-4
    for row in range(3):
        alone = rewards(path, images[row : row + 1], IDS[row : row + 1])
        np.testing.assert_allclose(alone, found[row : row + 1], rtol=1e-5)


def test_bfloat16_is_near_and_a_gradient_goes_through(pair):
    _, path = pair
    loaded = load_image_reward(path, CONFIG)
    halves = load_image_reward(path, CONFIG, dtype="bfloat16")
    layer = halves.params["blip"]["text_encoder"]["encoder"]["layer"]["block"]
    assert layer["crossattention"]["self"]["key"]["kernel"].dtype == jnp.bfloat16
    assert layer["output"]["LayerNorm"]["scale"].dtype == halves.weight.dtype == jnp.float32
    images = jnp.asarray(pictures())
    exact = jax.jit(image_reward_network(CONFIG))(loaded.params, images, tokens())
    network = image_reward_network(CONFIG, dtype="bfloat16")
    rough = jax.jit(network)(halves.params, images, tokens())
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05

    def slope(remat):
        network = image_reward_network(CONFIG, remat=remat)
        total = lambda images: jnp.sum(network(loaded.params, images, tokens())[:, :5])  # noqa: E731
        return jax.jit(jax.grad(total))(images)

    kept, again = slope(False), slope(True)
    assert float(jnp.max(jnp.abs(kept))) > 1e-3
    np.testing.assert_allclose(kept, again, rtol=1e-4, atol=1e-6)


def test_the_published_size():
    """ViT-L/16 and BERT-base with a cross-attention of 1024 features in each layer."""
    whole = parameters(abstract_module(lambda rngs: ImageReward(PUBLISHED, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == COUNT
    vision, text = PUBLISHED.vision, PUBLISHED.text
    # Of the published code and its `med_config.json`: no tensor says them.
    assert (vision.num_patches, vision.num_attention_heads, vision.layer_norm_eps) == (
        196,
        16,
        1e-6,
    )
    assert (text.num_attention_heads, text.layer_norm_eps) == (12, 1e-12)


_WIDTH = 1024
_IMAGES = 24 * (12 * _WIDTH**2 + 13 * _WIDTH) + (197 + 1 + 2 + 1) * _WIDTH + 768 * _WIDTH
_OWN, _CROSS = 4 * 768 * 768 + 6 * 768, 2 * 768 * 768 + 2 * 768 * _WIDTH + 6 * 768
_TEXTS = 12 * (_OWN + _CROSS + 8 * 768 * 768 + 7 * 768) + (30524 + 512 + 2) * 768
COUNT = _IMAGES + _TEXTS


HEAD = "mlp.layers.6.weight"
BIAS = "blip.text_encoder.encoder.layer.1.crossattention.output.LayerNorm.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != BIAS}, f"missing: {BIAS}"),
        (lambda t: {**t, BIAS: t[BIAS][:5]}, f"mis-shaped: {BIAS} (5,) instead of (36,)"),
        (lambda t: {**t, "blip.itm_head.bias": t[BIAS]}, "unknown: blip.itm_head.bias"),
        (lambda t: {k: v for k, v in t.items() if k != HEAD}, "is no ImageReward by its head"),
        (
            lambda t: {**t, HEAD: t[HEAD][:, :2]},
            "mlp.layers.6.weight is (6, 2) and its bias (6,), which does not fit",
        ),
        (
            lambda t: {**t, "mlp.layers.0.weight": t["mlp.layers.0.weight"][:, :4]},
            "the head reads 4 features, but the text encoder has 36",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(pair, tmp_path, change, message):
    path = tmp_path / "other.pt"
    torch.save(change(pair[0].weights()), path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_image_reward(path, CONFIG)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (BlipVisionConfig, {"patch_size": 300}, "image_size is 224: it must be at least"),
        (BlipVisionConfig, {"num_attention_heads": 5}, "1024: it must be a multiple"),
        (BlipTextConfig, {"vocab_size": 0}, "vocab_size is 0"),
        (BlipTextConfig, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (BlipTextConfig, {"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0"),
    ],
)
def test_settings_are_checked(kind, setting, message):
    with pytest.raises(ValueError, match=message):
        kind(**setting)
