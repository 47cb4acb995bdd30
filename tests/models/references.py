"""PyTorch references with random weights, and their weights under the names of checkpoints."""

from __future__ import annotations

import numpy as np

from tests.models.published import randomised


def adm_reference(config):
    """Diffusers' U-Net of the shape of an `AdmConfig`."""
    from diffusers import UNet2DModel

    widths = [mult * config.model_channels for mult in config.channel_mult]
    sides = [config.image_size >> level for level in range(len(widths))]
    attends = [side in config.attention_resolutions for side in sides]
    down = ["AttnDownBlock2D" if one else "ResnetDownsampleBlock2D" for one in attends]
    up = ["AttnUpBlock2D" if one else "ResnetUpsampleBlock2D" for one in reversed(attends)]
    return randomised(
        UNet2DModel(
            sample_size=config.image_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            layers_per_block=config.num_res_blocks,
            block_out_channels=tuple(widths),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            downsample_type="resnet",
            upsample_type="resnet",
            norm_num_groups=32,
            attn_norm_num_groups=32,
            attention_head_dim=config.head_channels,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=config.num_classes or None,
        )
    )


_RESIDUAL = {  # diffusers, OpenAI, EDM
    "norm1": ("in_layers.0", "norm0"),
    "conv1": ("in_layers.2", "conv0"),
    "time_emb_proj": ("emb_layers.1", "affine"),
    "norm2": ("out_layers.0", "norm1"),
    "conv2": ("out_layers.3", "conv1"),
    "conv_shortcut": ("skip_connection", "skip"),
}
_ATTENTION = {
    "group_norm": ("norm", "norm2"),
    "to_qkv": ("qkv", "qkv"),
    "to_out.0": ("proj_out", "proj"),
}
_OTHERS = {
    "conv_in": ("input_blocks.0.0", "enc.{side}x{side}_conv"),
    "time_embedding.linear_1": ("time_embed.0", "map_layer0"),
    "time_embedding.linear_2": ("time_embed.2", "map_layer1"),
    "class_embedding": ("label_emb", "map_label"),
    "conv_norm_out": ("out.0", "out_norm"),
    "conv_out": ("out.2", "out_conv"),
}


def adm_names(config) -> dict[str, tuple[str, str]]:
    """Diffusers' name of each layer -> OpenAI's and EDM's, counted off level by level."""
    levels, blocks = len(config.channel_mult), config.num_res_blocks
    names = {
        key: (ours, edm.format(side=config.image_size)) for key, (ours, edm) in _OTHERS.items()
    }

    def residual(theirs, ours, edm):
        for key, (a, b) in _RESIDUAL.items():
            names[f"{theirs}.{key}"] = f"{ours}.{a}", f"{edm}.{b}"

    def attention(theirs, ours, edm):
        for key, (a, b) in _ATTENTION.items():
            names[f"{theirs}.{key}"] = f"{ours}.{a}", f"{edm}.{b}"

    place = 1
    for level in range(levels):
        side = config.image_size >> level
        for block in range(blocks):
            theirs, edm = f"down_blocks.{level}", f"enc.{side}x{side}_block{block}"
            residual(f"{theirs}.resnets.{block}", f"input_blocks.{place}.0", edm)
            attention(f"{theirs}.attentions.{block}", f"input_blocks.{place}.1", edm)
            place += 1
        if level < levels - 1:
            edm = f"enc.{side // 2}x{side // 2}_down"
            residual(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{place}.0", edm)
            place += 1
    coarsest = config.image_size >> (levels - 1)
    residual("mid_block.resnets.0", "middle_block.0", f"dec.{coarsest}x{coarsest}_in0")
    attention("mid_block.attentions.0", "middle_block.1", f"dec.{coarsest}x{coarsest}_in0")
    residual("mid_block.resnets.1", "middle_block.2", f"dec.{coarsest}x{coarsest}_in1")
    place = 0
    for stage in range(levels):
        side = coarsest << stage
        for block in range(blocks + 1):
            theirs, edm = f"up_blocks.{stage}", f"dec.{side}x{side}_block{block}"
            residual(f"{theirs}.resnets.{block}", f"output_blocks.{place}.0", edm)
            attention(f"{theirs}.attentions.{block}", f"output_blocks.{place}.1", edm)
            place += 1
        if stage < levels - 1:
            part = 2 if side in config.attention_resolutions else 1
            residual(
                f"up_blocks.{stage}.upsamplers.0",
                f"output_blocks.{place - 1}.{part}",
                f"dec.{2 * side}x{2 * side}_up",
            )
    return names


def adm_state_dicts(reference, config) -> tuple[dict, dict]:
    """The reference's weights as OpenAI's and as EDM's checkpoints hold them (NumPy)."""
    found = {key: value.detach().numpy() for key, value in reference.state_dict().items()}
    for key in [key for key in found if ".to_q." in key]:
        parts = [found.pop(key.replace(".to_q.", f".to_{one}.")) for one in "qkv"]
        found[key.replace(".to_q.", ".to_qkv.")] = np.concatenate(parts)
    names, openai, edm = adm_names(config), {}, {}
    for key, tensor in found.items():
        layer, _, leaf = key.rpartition(".")
        ours, theirs = (f"{name}.{leaf}" for name in names[layer])
        theirs_tensor = tensor
        if ".to_qkv" in layer:
            heads = tensor.shape[0] // 3 // config.head_channels
            split = tensor.reshape(3, heads, config.head_channels, -1)
            theirs_tensor = split.transpose(1, 2, 0, 3).reshape(tensor.shape)
        if layer == "class_embedding":
            theirs_tensor = tensor.T
        if leaf == "weight" and ".to_" in layer:  # a convolution of one pixel, in both
            tensor, theirs_tensor = tensor[..., None], theirs_tensor[..., None, None]
        openai[ours] = np.ascontiguousarray(tensor)
        edm[theirs] = np.ascontiguousarray(theirs_tensor)
    sides = [config.image_size >> level for level in range(len(config.channel_mult))]
    for side, finer in zip(sides[1:], sides, strict=False):
        for part in ("conv0", "skip"):
            for name in (f"enc.{side}x{side}_down", f"dec.{finer}x{finer}_up"):
                edm[f"{name}.{part}.resample_filter"] = np.full((1, 1, 2, 2), 0.25, np.float32)
    return openai, edm
