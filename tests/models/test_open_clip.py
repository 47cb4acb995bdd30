"""CLIP under the names of OpenCLIP, against its layers written out in PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models.clip import (
    Clip,
    ClipConfig,
    clip_image_network,
    clip_text_embedding_network,
)
from jaxsearch.models.clip_text import ClipTextConfig
from jaxsearch.models.clip_vision import ClipVisionConfig
from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.models.open_clip import VIT_H_14, load_open_clip
from tests.models.published import randomised, relative, to_torch

torch = pytest.importorskip("torch")
nn = torch.nn

CONFIG = ClipConfig(
    text=ClipTextConfig(
        vocab_size=11,
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=7,
        hidden_act="gelu",
    ),
    vision=ClipVisionConfig(
        image_size=16,
        patch_size=7,  # two pixels are left over
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 80, as ViT-H/14 has
        hidden_act="gelu",
    ),
    projection_dim=13,
    end=None,
)
# The largest token ends a text: once, twice, and in the last place.
IDS = np.array([[9, 0, 10, 8, 10, 3, 0], [9, 1, 2, 3, 4, 8, 10], [9, 10, 0, 0, 0, 0, 0]])


def scale(*shape):
    return nn.Parameter(torch.zeros(shape))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, mask):
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp.c_proj(nn.functional.gelu(self.mlp.c_fc(self.ln_2(x))))


def tower(shape) -> nn.Module:
    made = nn.Module()
    sizes = shape.hidden_size, shape.num_attention_heads, shape.intermediate_size
    made.resblocks = nn.ModuleList([_Block(*sizes) for _ in range(shape.num_hidden_layers)])
    return made


class Reference(nn.Module):
    """Radford et al. 2021, figure 3 and section 2.4, with OpenCLIP's names for the parts."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        text, vision = config.text, config.vision
        width = vision.hidden_size
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, vision.patch_size, vision.patch_size, bias=False)
        self.visual.class_embedding = scale(width)
        self.visual.positional_embedding = scale(vision.num_patches + 1, width)
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = tower(vision)
        self.visual.proj = scale(width, config.projection_dim)
        self.token_embedding = nn.Embedding(text.vocab_size, text.hidden_size)
        self.positional_embedding = scale(text.max_position_embeddings, text.hidden_size)
        self.transformer = tower(text)
        self.ln_final = nn.LayerNorm(text.hidden_size)
        self.text_projection = scale(text.hidden_size, config.projection_dim)
        self.logit_scale = scale()

    def encode_image(self, images):
        own = self.visual
        patches = own.conv1(images).flatten(2).transpose(1, 2)
        first = own.class_embedding.expand(len(images), 1, -1)
        x = own.ln_pre(torch.cat([first, patches], dim=1) + own.positional_embedding)
        for block in own.transformer.resblocks:
            x = block(x, None)
        return own.ln_post(x[:, 0]) @ own.proj

    def encode_text(self, ids):
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


def saved(path, config=CONFIG):
    """The reference, and the file of the form of HPS v2 that holds its weights."""
    reference = randomised(Reference(config))
    torch.save({"state_dict": reference.state_dict(), "epoch": 3}, path)
    return reference


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    path = tmp_path_factory.mktemp("open_clip") / "HPS.pt"
    return saved(path), path


def test_images_are_embedded_as_there(pair, record_property):
    """Kills: queries for keys; a projection that is not turned; either normalisation misplaced."""
    reference, path = pair
    clip = load_open_clip(path, CONFIG, entry="state_dict")
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    found = jax.jit(clip_image_network(CONFIG))(clip.images, jnp.asarray(images))
    wanted = reference.encode_image(to_torch(images)).numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5


def test_texts_are_embedded_as_there(pair, record_property):
    """Kills: a text's last token, or the second of its ends, for the first."""
    reference, path = pair
    clip = load_open_clip(path, CONFIG, entry="state_dict")
    found = jax.jit(clip_text_embedding_network(CONFIG))(clip.texts, jnp.asarray(IDS, jnp.int32))
    wanted = reference.encode_text(torch.as_tensor(IDS)).numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert float(clip.logit_scale) == pytest.approx(reference.logit_scale.item())


def test_the_published_size():
    """OpenCLIP counts 986.11 million for ViT-H-14."""
    whole = parameters(abstract_module(lambda rngs: Clip(VIT_H_14, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == 986_109_441


JOINT = "visual.transformer.resblocks.1.attn.in_proj_weight"
OURS = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != JOINT}, f"missing: .*{OURS}"),
        (lambda t: {**t, JOINT: t[JOINT][:-3]}, rf"mis-shaped: .*{OURS} \(159, 160\)"),
        (lambda t: {**t, JOINT: t[JOINT][:-1]}, f"unknown: {JOINT}"),
        (lambda t: {**t, "visual.ln_mid.bias": t[JOINT][0]}, "unknown: visual.ln_mid.bias"),
        (
            lambda t: {**t, "transformer.resblocks.0.ls_1.gamma": t[JOINT][0]},
            "unknown: transformer.resblocks.0.ls_1.gamma",
        ),
        (
            lambda t: {**t, "transformer.resblocks.3.ln_1.bias": t["ln_final.bias"]},
            "unknown: text_model.encoder.layers.3.layer_norm1.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(pair, tmp_path, change, message):
    path = tmp_path / "other.pt"
    torch.save({"state_dict": change(dict(pair[0].state_dict()))}, path)
    with pytest.raises(ValueError, match=message) as caught:
        load_open_clip(path, CONFIG, entry="state_dict")
    assert str(path) in str(caught.value)


def test_a_file_without_the_entry_is_named(pair, tmp_path):
    torch.save(pair[0].state_dict(), tmp_path / "bare.pt")
    with pytest.raises(ValueError, match=r"bare\.pt as weights: it has no entry 'state_dict'"):
        load_open_clip(tmp_path / "bare.pt", CONFIG, entry="state_dict")
    load_open_clip(tmp_path / "bare.pt", CONFIG)
