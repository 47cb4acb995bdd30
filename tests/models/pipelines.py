"""Pipelines of `diffusers` as small as they get: random weights, a vocabulary made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.models.published import randomised, written

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [
    ("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>"), ("a", "n"), ("an", "d</w>"),
    ("'", "s</w>"), ("'", "t</w>"), ("1", "2</w>"), ("Ã", "©</w>"), ("p", "h"), ("ph", "o"),
    ("<", "b</w>"), ("!", "!</w>"), ("ĠĠ", "a</w>"),
]  # fmt: skip


def vocabulary() -> dict[str, int]:
    """All bytes in their printable forms, whole and at the end of a word, and what is merged.

    As in CLIP's own, `!` is the first and the ends of a text are the last.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in printable]
    letters += [chr(0x100 + i) for i in range(256 - len(printable))]
    merged = ["".join(pair) for pair in MERGES]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *merged, "ĠĠ", START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def write_tokenizer(folder: Path, *, padding: str, length: int = 77) -> Path:
    """`vocab.json`, `merges.txt` and the settings, as Stable Diffusion's folders have them."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    merges = "".join(f"{one} {two}\n" for one, two in MERGES)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    mark = {"content": END, "lstrip": False, "normalized": False, "rstrip": False}
    mark |= {"single_word": False, "__type": "AddedToken"}
    settings = {
        "bos_token": {**mark, "content": START},
        "eos_token": mark,
        "unk_token": mark,
        "pad_token": END,
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # Stable Diffusion 2's first file says otherwise than its second, which wins.
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


LENGTH = 12
_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
_VAE = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "scaling_factor": 0.18215,
}
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
}
_STEPS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def stable_diffusion(family: int, folder: Path) -> tuple[Any, Path]:
    """A `StableDiffusionPipeline` of the form of version 1 or 2, and the folder it was written to.

    Pictures are 16x16. The tokenizer has the two files that the published folders have.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    two = family == 2
    unet = {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True}
    text = CLIPTextConfig(
        **_TEXT,
        vocab_size=len(vocabulary()),
        bos_token_id=vocabulary()[START],
        eos_token_id=vocabulary()[END],
        hidden_act="gelu" if two else "quick_gelu",
    )
    networks = {
        "unet": UNet2DConditionModel(**{**_UNET, **(unet if two else {})}),
        "vae": AutoencoderKL(**_VAE),
        "text_encoder": CLIPTextModel(text),
    }
    parts = {name: written(network, folder / name)[0] for name, network in networks.items()}
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer", padding="!" if two else END, length=LENGTH)
    scheduler = (
        DDIMScheduler(**_STEPS, clip_sample=False, prediction_type="v_prediction")
        if two
        else PNDMScheduler(**_STEPS, skip_prk_steps=True)
    )
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    return pipeline, folder


_UNET_XL = {
    **_UNET,
    "transformer_layers_per_block": (2, 1),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "cross_attention_dim": 16 + 20,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 10,
}


def unet_xl(folder: Path, **changes: Any) -> tuple[Any, Path]:
    """The U-net of `stable_diffusion_xl`, and the folder it was written to."""
    from diffusers import UNet2DConditionModel

    return written(UNet2DConditionModel(**{**_UNET_XL, **changes}), folder)


def stable_diffusion_xl(folder: Path, *, turbo: bool = False) -> tuple[Any, Path]:
    """A `StableDiffusionXLPipeline` of the form of the base or of Turbo, and its folder.

    Pictures are 16x16. The tokenizers have the two files that the published folders have.
    """
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    ends = {"vocab_size": len(vocabulary()), "bos_token_id": vocabulary()[START]}
    small = CLIPTextConfig(**_TEXT, **ends, eos_token_id=vocabulary()[END], hidden_act="quick_gelu")
    # Both published configs name the 2 that nobody reads.
    large = {**_TEXT, **ends, "hidden_size": 20, "num_hidden_layers": 3, "eos_token_id": 2}
    networks = {
        "vae": AutoencoderKL(**{**_VAE, "scaling_factor": 0.13025}),
        "text_encoder": CLIPTextModel(small),
        "text_encoder_2": CLIPTextModelWithProjection(
            CLIPTextConfig(**large, projection_dim=10, hidden_act="gelu")
        ),
    }
    parts = {name: written(network, folder / name)[0] for name, network in networks.items()}
    parts["unet"] = unet_xl(folder / "unet")[0]
    tokenizers = {"tokenizer": END, "tokenizer_2": "!"}
    for name, padding in tokenizers.items():
        (folder / name).mkdir()
        write_tokenizer(folder / name, padding=padding, length=LENGTH)
    betas = {name: _STEPS[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    scheduler = (
        EulerAncestralDiscreteScheduler(**betas, timestep_spacing="trailing")
        if turbo
        else EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1)
    )
    pipeline = StableDiffusionXLPipeline(
        **parts,
        **{name: CLIPTokenizer.from_pretrained(folder / name) for name in tokenizers},
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    for name in tokenizers:
        (folder / name / "tokenizer.json").unlink()
    return pipeline, folder


def write_t5_tokenizer(folder: Path) -> Any:
    """T5's `tokenizer.json` with a small vocabulary, and the tokenizer that wrote it."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(0x61, 0x7B)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [("▁the", -1.0), ("▁cat", -1.5), ("at", -2.0), ("'", -4.0), ("1", -6.0)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    tokenizer.save_pretrained(folder)
    return tokenizer


PIXART = {
    "sample_size": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "caption_channels": 12,
    "use_additional_conditions": False,
}


def pixart_sigma(folder: Path) -> tuple[Any, Path]:
    """A `PixArtSigmaPipeline` and the folder it was written to. Pictures are 16x16."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel

    (folder / "tokenizer").mkdir()
    tokenizer = write_t5_tokenizer(folder / "tokenizer")
    text = T5Config(
        vocab_size=len(tokenizer), d_model=12, d_kv=5, d_ff=20, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    networks = {
        "transformer": PixArtTransformer2DModel(**PIXART),
        "vae": AutoencoderKL(**{**_VAE, "scaling_factor": 0.13025}),
        "text_encoder": T5EncoderModel(text),
    }
    parts = {name: written(network, folder / name)[0] for name, network in networks.items()}
    steps = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, steps_offset=1)
    pipeline = PixArtSigmaPipeline(**parts, tokenizer=tokenizer, scheduler=steps)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline, folder


MMDIT = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 30,
    "pos_embed_max_size": 6,
}


def stable_diffusion_3(folder: Path) -> tuple[Any, Path]:
    """A `StableDiffusion3Pipeline` and the folder it was written to. Pictures are 16x16."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
    )

    for name, padding in {"tokenizer": END, "tokenizer_2": "!"}.items():
        (folder / name).mkdir()
        write_tokenizer(folder / name, padding=padding, length=LENGTH)
    (folder / "tokenizer_3").mkdir()
    pieces = write_t5_tokenizer(folder / "tokenizer_3")
    ends = {"vocab_size": len(vocabulary()), "bos_token_id": vocabulary()[START]}
    clip = {**_TEXT, **ends, "eos_token_id": 2}
    t5 = T5Config(
        vocab_size=len(pieces), d_model=40, d_kv=5, d_ff=20, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    vae = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609}
    networks = {
        "transformer": SD3Transformer2DModel(**MMDIT),
        "vae": AutoencoderKL(**{**_VAE, "scaling_factor": 1.5305, **vae}),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**clip, projection_dim=14)),
        "text_encoder_2": CLIPTextModelWithProjection(
            CLIPTextConfig(**{**clip, "hidden_size": 20}, projection_dim=16, hidden_act="gelu")
        ),
        "text_encoder_3": T5EncoderModel(t5),
    }
    parts = {name: written(network, folder / name)[0] for name, network in networks.items()}
    pipeline = StableDiffusion3Pipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        tokenizer_3=pieces,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name / "tokenizer.json").unlink()
    return pipeline, folder


FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "pooled_projection_dim": 16,
    "guidance_embeds": True,
    "axes_dims_rope": (2, 6, 8),
}


def flux(folder: Path, *, schnell: bool = False) -> tuple[Any, Path]:
    """A `FluxPipeline` of the form of FLUX.1-dev or of FLUX.1-schnell, and its folder.

    Networks are in several files with an index, as the published ones are.
    """
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
    )

    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
    write_tokenizer(folder / "tokenizer", padding=END, length=LENGTH)
    pieces = write_t5_tokenizer(folder / "tokenizer_2")
    # The published config names the 2 that nobody reads.
    clip = CLIPTextConfig(
        **_TEXT, vocab_size=len(vocabulary()), bos_token_id=vocabulary()[START], eos_token_id=2
    )
    t5 = T5Config(
        vocab_size=len(pieces), d_model=40, d_kv=5, d_ff=20, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    vae = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159}
    parts = {
        "transformer": FluxTransformer2DModel(**{**FLUX, "guidance_embeds": not schnell}),
        "vae": AutoencoderKL(**{**_VAE, "scaling_factor": 0.3611, **vae}),
        "text_encoder": CLIPTextModel(clip),
        "text_encoder_2": T5EncoderModel(t5),
    }
    # Of a picture of this size, the published slope would be hard to tell from none.
    slope = {"base_image_seq_len": 4, "max_image_seq_len": 64}
    pipeline = FluxPipeline(
        **{name: randomised(part) for name, part in parts.items()},
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=pieces,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell, **slope
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, max_shard_size="100KB")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    return pipeline, folder
