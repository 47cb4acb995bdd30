"""DiT against `diffusers` at random weights, through the files that both forms are published as."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxsearch.core.process import edm, trained_steps, variance_preserving
from jaxsearch.models.autoencoder_kl import autoencoder_decoder, load_autoencoder
from jaxsearch.models.dit import DiT, DiTConfig, dit_denoiser, dit_network, position_embedding
from jaxsearch.models.dit_folder import dit_config, load_dit, load_dit_folder, original_names
from jaxsearch.models.epsilon import epsilon_denoiser
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.solvers import first_order
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

CLASSES = 5
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": CLASSES,
    "norm_eps": 0.05,  # large, so that it shows where it stands
}
VP = variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear")
ROWS = 6
TIMES = np.array([0, 1, 37, 500, 998, 999])
LABELS = np.array([0, 4, 2, CLASSES, 1, 3])


def theirs(folder, **changes):
    """The reference, with one embedding of time and label in all blocks as trained, and its folder.

    Its embedding of time has other frequencies than the network was trained with, of which it holds
    the weights; the published ones are put in.
    """
    from diffusers import DiTTransformer2DModel

    reference = DiTTransformer2DModel(**{**TINY, **changes})
    first, *others = (block.norm1.emb for block in reference.transformer_blocks)
    written(reference, folder)
    for other in others:
        other.load_state_dict(first.state_dict())
    for embedding in (first, *others):
        embedding.time_proj.downscale_freq_shift = 0
    reference.save_pretrained(folder)
    return reference, folder


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="module")
def loaded(usual):
    return load_dit_folder(usual[1])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ask(reference, x, times, labels):
    """What the reference says, [n, h, w, c]."""
    output = reference(to_torch(x), torch.as_tensor(times), torch.as_tensor(labels)).sample
    return output.permute(0, 2, 3, 1).numpy()


def inputs(num: int = ROWS):
    return normal(0, num, 8, 8, 4), TIMES[:num], LABELS[:num]


def given(x, times, labels):
    return jnp.asarray(x), jnp.asarray(times, jnp.float32), jnp.asarray(labels, jnp.int32)


# ----------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"out_channels": 4, "patch_size": 4, "num_layers": 1},
        {"in_channels": 3, "out_channels": 6, "sample_size": 6, "num_attention_heads": 3},
    ],
)
def test_computes_as_diffusers_does(changes, tmp_path, record_property):
    """All outputs, variance and all.

    Kills: shift and scale, or the two norms' epsilon, exchanged; a gate left out; query, key and
    value in another order; rows and columns of the position embedding, or of a patch, exchanged;
    the exact gelu; sine before cosine in the embedding of time.
    """
    reference, folder = theirs(tmp_path, **changes)
    config, params = load_dit_folder(folder)
    x, times, labels = inputs()
    x = normal(0, ROWS, config.input_size, config.input_size, config.in_channels)
    wanted = ask(reference, x, times, labels)
    module = abstract_module(lambda rngs: DiT(config, rngs=rngs))
    graph = nnx.split(module)[0]
    found = jax.jit(lambda params, *inputs: nnx.merge(graph, params)(*inputs))(
        params, *given(x, times, labels)
    )
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32
    half = jax.jit(dit_network(config))(params, *given(x, times, labels))
    np.testing.assert_allclose(half, found[..., : config.in_channels], rtol=1e-5, atol=1e-6)


def test_computes_as_diffusers_does_of_its_own_accord(usual, loaded):
    """With the frequencies that its network has unless told otherwise, as `frequency_shift=1`."""
    reference, _ = usual
    embeddings = [block.norm1.emb.time_proj for block in reference.transformer_blocks]
    x, times, labels = inputs()
    config, params = loaded
    try:
        for embedding in embeddings:
            embedding.downscale_freq_shift = 1
        wanted = ask(reference, x, times, labels)[..., :4]
    finally:
        for embedding in embeddings:
            embedding.downscale_freq_shift = 0
    shifted = dataclasses.replace(config, frequency_shift=1)
    assert relative(jax.jit(dit_network(shifted))(params, *given(x, times, labels)), wanted) < 2e-5
    assert relative(jax.jit(dit_network(config))(params, *given(x, times, labels)), wanted) > 1e-2


def test_position_embedding_by_hand():
    """A token's column comes first, then its row; of each the sines, then the cosines."""
    grid, features = 3, 8
    found = position_embedding(grid, features)
    for row in range(grid):
        for column in range(grid):
            wanted = [f(at / p) for at in (column, row) for f in (np.sin, np.cos) for p in (1, 100)]
            np.testing.assert_allclose(found[0, row * grid + column], wanted, atol=1e-6)


def test_bfloat16_is_near_and_its_gradient_may_compute_again(loaded):
    config, params = loaded
    args = given(*inputs())
    exact = jax.jit(dit_network(config))(params, *args)
    rough = jax.jit(dit_network(config, dtype=jnp.bfloat16))(params, *args)
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05

    def slope(remat):
        network = dit_network(config, remat=remat)
        return jax.jit(jax.grad(lambda x: jnp.sum(network(params, x, *args[1:]) ** 2)))

    np.testing.assert_allclose(slope(True)(args[0]), slope(False)(args[0]), rtol=1e-3, atol=1e-4)
    assert "remat" in str(jax.make_jaxpr(slope(True))(args[0]))
    assert "remat" not in str(jax.make_jaxpr(slope(False))(args[0]))
    with pytest.raises(ValueError, match="dtype is float16"):
        dit_network(config, dtype=jnp.float16)


def test_published_size():
    """675,129,632 numbers, of which 294,912 say where tokens stand and were never trained."""
    whole = parameters(abstract_module(lambda rngs: DiT(DiTConfig(), rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == 675_129_632
    assert whole["pos_embed"].size == 294_912


# ----------------------------------------------------------------------------------------- weights


def original(usual) -> dict:
    """The reference's weights under the original keys, made one by one."""
    state, renamed = usual[0].state_dict(), {}
    for kind in ("weight", "bias"):
        renamed[f"x_embedder.proj.{kind}"] = state[f"pos_embed.proj.{kind}"]
        renamed[f"final_layer.adaLN_modulation.1.{kind}"] = state[f"proj_out_1.{kind}"]
        renamed[f"final_layer.linear.{kind}"] = state[f"proj_out_2.{kind}"]
        for i in range(3):
            block, norm = f"transformer_blocks.{i}", f"transformer_blocks.{i}.norm1"
            qkv = [state[f"{block}.attn1.to_{part}.{kind}"] for part in ("q", "k", "v")]
            renamed[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
            renamed[f"blocks.{i}.attn.proj.{kind}"] = state[f"{block}.attn1.to_out.0.{kind}"]
            renamed[f"blocks.{i}.mlp.fc1.{kind}"] = state[f"{block}.ff.net.0.proj.{kind}"]
            renamed[f"blocks.{i}.mlp.fc2.{kind}"] = state[f"{block}.ff.net.2.{kind}"]
            renamed[f"blocks.{i}.adaLN_modulation.1.{kind}"] = state[f"{norm}.linear.{kind}"]
        time = f"{norm}.emb.timestep_embedder.linear"
        renamed[f"t_embedder.mlp.0.{kind}"] = state[f"{time}_1.{kind}"]
        renamed[f"t_embedder.mlp.2.{kind}"] = state[f"{time}_2.{kind}"]
    table = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    renamed["y_embedder.embedding_table.weight"] = state[table]
    renamed["pos_embed"] = usual[0].pos_embed.pos_embed
    return renamed


@pytest.mark.parametrize("name", [None, "ema", "model"])
def test_original_files_hold_the_same(usual, loaded, tmp_path, name):
    """The `.pt` of the authors gives the same weights as the folder, wherever in it they are.

    Kills: qkv joined in another order; a block's keys given to another; the table of another name.
    """
    weights = original(usual)
    torch.save(weights if name is None else {name: weights, "other": {}}, tmp_path / "dit.pt")
    config, params = loaded
    found = load_dit(tmp_path / "dit.pt", config, name=name)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    params = {**params}
    positions = [weights.pop("pos_embed") for weights in (found, params)]
    np.testing.assert_allclose(*positions, atol=1e-6)  # of cosines in float64 and in float32
    jax.tree.map(np.testing.assert_array_equal, found, params)
    if name is not None:
        with pytest.raises(ValueError, match=r"dit.pt .*say which entry"):
            load_dit(tmp_path / "dit.pt", config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.2.mlp.fc1.bias"), "missing: blocks.2.mlp.fc1.bias"),
        (lambda t: t.pop("pos_embed"), "missing: pos_embed"),
        (lambda t: t.update({"blocks.3.x": t["pos_embed"]}), "unknown: blocks.3.x"),
        (
            lambda t: t.update(pos_embed=t["pos_embed"][:, :4]),
            r"mis-shaped: pos_embed \(1, 4, 24\) instead of \(1, 16, 24\)",
        ),
    ],
)
def test_originals_that_do_not_fit_are_named(usual, loaded, tmp_path, change, message):
    weights = original(usual)
    change(weights)
    torch.save(weights, tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_dit(tmp_path / "dit.pt", loaded[0])
    assert "dit.pt" in str(caught.value)


EMBEDDING = "transformer_blocks.2.norm1.emb"
TO_K = "transformer_blocks.1.attn1.to_k.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(TO_K), "missing: blocks.1.attn.qkv.weight; unknown: .*attn1.to_q.weight"),
        (lambda t: t.update({TO_K: t[TO_K][:, :8]}), rf"missing: blocks.1.*unknown: .*{TO_K}"),
        (lambda t: t.pop("proj_out_2.bias"), "missing: final_layer.linear.bias"),
        (lambda t: t.update({"proj_out_3.bias": t[TO_K]}), "unknown: proj_out_3.bias"),
        (
            lambda t: t.update({"proj_out_2.bias": t["proj_out_2.bias"][:5]}),
            r"mis-shaped: final_layer.linear.bias \(5,\) instead of \(32,\)",
        ),
        (
            lambda t: t.pop(f"{EMBEDDING}.timestep_embedder.linear_1.bias"),
            f"{EMBEDDING}.timestep_embedder.linear_1.bias is missing, though other blocks",
        ),
        (
            lambda t: t.update(
                {f"{EMBEDDING}.class_embedder.embedding_table.weight": np.ones((6, 24), "f4")}
            ),
            f"{EMBEDDING}.class_embedder.embedding_table.weight differs from transformer_blocks.0",
        ),
        (
            lambda t: t.update({"blocks.0.attn.proj.bias": t["proj_out_1.bias"]}),
            "two tensors stand for blocks.0.attn.proj.bias",
        ),
    ],
)
def test_folders_that_do_not_fit_are_named(usual, tmp_path, change, message):
    tensors = load_file(usual[1] / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        load_dit_folder(tmp_path)


def test_renaming_leaves_what_it_is_given(usual, loaded):
    """It is a function; and an embedding of positions in the file is taken as it is there."""
    tensors = load_file(usual[1] / "diffusion_pytorch_model.safetensors")
    before = dict(tensors)
    renamed = original_names(tensors, loaded[0])
    assert tensors.keys() == before.keys()
    np.testing.assert_array_equal(renamed["pos_embed"], position_embedding(4, 24))
    tensors["pos_embed.pos_embed"] = np.ones((1, 16, 24), np.float32)
    np.testing.assert_array_equal(original_names(tensors, loaded[0])["pos_embed"], 1.0)


def entries(usual) -> dict:
    return json.loads((usual[1] / "config.json").read_text())


MISTAKES = {
    "class": ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel'"),
    "activation": ({"activation_fn": "geglu"}, "activation_fn is 'geglu': only 'gelu-approximate'"),
    "norm": ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm'"),
    "affine": ({"norm_elementwise_affine": True}, "norm_elementwise_affine is True: only False"),
    "bias": ({"attention_bias": False}, "attention_bias is False"),
    "dropout": ({"dropout": 0.1}, "dropout is 0.1"),
    "text": ({"cross_attention_dim": 768}, "cross_attention_dim is 768: only None"),
    "outputs": ({"out_channels": 12}, "out_channels is 12: only in_channels, 4, or twice"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    "patch": ({"patch_size": 3}, "input_size is 8: it must be a multiple of 3"),
    "heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "layers": ({"num_layers": 2.5}, "depth is 2.5"),
    "epsilon": ({"norm_eps": 0.0}, "norm_epsilon is 0.0"),
    "no_epsilon": ({"norm_eps": None}, "norm_eps is None: it must be a number"),
    "channels": ({"in_channels": None}, "in_channels is None"),
    "oblong": ({"sample_size": [8, 8]}, r"input_size is \[8, 8\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        dit_config({**entries(usual), **change})
    assert "\n" not in str(caught.value)


def test_configs(usual, loaded):
    assert loaded[0] == DiTConfig(
        input_size=8,
        hidden_size=24,
        depth=3,
        num_heads=2,
        num_classes=CLASSES,
        norm_epsilon=0.05,
    )
    early = {k: v for k, v in entries(usual).items() if k not in ("norm_eps", "out_channels")}
    config = dit_config({**early, "_class_name": "Transformer2DModel", "num_vector_embeds": None})
    assert (config.norm_epsilon, config.learn_sigma) == (1e-5, False)
    with pytest.raises(ValueError, match="no entry 'num_layers'"):
        dit_config({k: v for k, v in early.items() if k != "num_layers"})
    with pytest.raises(ValueError, match="hidden_size is 22: it must be a multiple of 4"):
        DiTConfig(hidden_size=22, num_heads=2)
    with pytest.raises(ValueError, match="frequency_shift is 2"):
        DiTConfig(frequency_shift=2)


# ---------------------------------------------------------------------------------------- denoiser


def guided_by_hand(reference, x, times, labels, scale, channels):
    """Both halves asked apart; the channels from `channels` on are as the label alone has them."""
    yes = ask(reference, x, times, labels)[..., :4]
    no = ask(reference, x, times, np.full_like(labels, CLASSES))[..., :4]
    eps = yes.copy()
    eps[..., :channels] = (no + scale * (yes - no))[..., :channels]
    return eps


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("channels", [3, None])
def test_denoiser(usual, loaded, scale, channels, record_property):
    """Noise as the reference has it, the clean latent by what is left; `x` stays their sum.

    Kills: the fourth channel guided, or taken from the half without a label; the null class off by
    one; the variance's channels for the noise's.
    """
    x, times, labels = inputs()
    denoiser = dit_denoiser(*loaded, guidance=scale, guided_channels=channels)
    found = denoiser(*given(x, times, labels))
    eps = guided_by_hand(usual[0], x, times, labels, scale, channels or 4)
    alpha, sigma = (f(TIMES.astype(float))[:, None, None, None] for f in (VP.alpha, VP.sigma))
    x0 = (x - sigma * eps) / alpha
    record_property("relative", (relative(found.eps, eps), relative(found.x0, x0)))
    assert relative(found.eps, eps) < 2e-5
    for i in range(ROWS):  # divided by alphas from 1 to 0.006, so row by row
        assert relative(found.x0[i], x0[i]) < 1e-4
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.eps, x, rtol=1e-4, atol=1e-4)
    assert denoiser.passes == (1 if scale == 1 else 2)
    assert denoiser.process is VP
    assert denoiser.shape == (8, 8, 4)


def test_more_channels_than_there_are(loaded):
    for channels, message in ((5, r"guided_channels is 5: it must lie in \[1, 4\]"), (0, "is 0")):
        with pytest.raises(ValueError, match=message):
            dit_denoiser(*loaded, guidance=2.0, guided_channels=channels)


def test_times_between_steps(loaded):
    """Alpha and sigma are the process's own, between training steps too, to float32."""
    times = np.array([0.5, 3.25, 700.7])
    one = epsilon_denoiser(lambda p, x, t, c: jnp.zeros_like(x), (), shape=(1,), process=VP)
    clean = one(jnp.ones((3, 1)), jnp.asarray(times, jnp.float32), None).x0[:, 0]
    np.testing.assert_allclose(1 / clean, VP.alpha(times), rtol=2e-6)
    with pytest.raises(ValueError, match="the edm process has no training steps"):
        epsilon_denoiser(lambda p, x, t, c: x, (), shape=(1,), process=edm())


def test_equal_settings_share_one_program(loaded):
    traces = []

    @jax.jit
    def run(denoiser, args):
        traces.append(None)
        return denoiser(*args).x0

    config, params = loaded
    args = given(*inputs())
    first = run(dit_denoiser(config, params, guidance=2.0), args)
    again = dataclasses.replace(config)
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    assert not np.allclose(first, run(dit_denoiser(again, halved, guidance=3.0), args))
    assert len(traces) == 1
    bare = epsilon_denoiser(dit_network(config), params, shape=(8, 8, 4), process=VP)
    same = classifier_free_guidance(
        bare, scale=2.0, null=np.int32(CLASSES), guided_channels=np.int64(3)
    )
    np.testing.assert_array_equal(run(same, args), first)
    assert len(traces) == 1


def test_a_whole_trajectory(usual, loaded, tmp_path_factory, record_property):
    """Guided DDIM with fresh noise at every step, to the decoded image.

    Kills: the process's betas; the injected noise scaled otherwise; the last step to the noise of
    the first training step; the latents' scale.
    """
    from diffusers import AutoencoderKL, DDIMScheduler

    num_steps, scale, num = 8, 3.0, 2
    labels = LABELS[:num]
    start, fresh = normal(5, num, 8, 8, 4), normal(6, num_steps, num, 8, 8, 4)
    vae, folder = written(
        AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **_BLOCKS),
        tmp_path_factory.mktemp("vae"),
    )

    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    scheduler.set_timesteps(num_steps)
    sample = to_torch(start)
    for i, t in enumerate(scheduler.timesteps):
        x = sample.permute(0, 2, 3, 1).numpy()
        eps = guided_by_hand(usual[0], x, np.full(num, t), labels, scale, 3)
        noise = to_torch(fresh[i])
        step = scheduler.step(to_torch(eps), t, sample, eta=1.0, variance_noise=noise)
        sample = step.prev_sample
    image = (vae.decode(sample / 0.18215).sample / 2 + 0.5).clamp(0, 1)

    denoiser = dit_denoiser(*loaded, guidance=scale)
    solver = first_order(trained_steps(denoiser.process, num_steps=num_steps), eta=1.0)
    cond = jnp.asarray(labels, jnp.int32)

    @jax.jit
    def run(denoiser, x, fresh):
        def body(x, inputs):
            index, noise = inputs
            step = solver.step(
                lambda x, t: denoiser(x, t, cond), x, jnp.full(num, index), noise, ()
            )
            return step.x, None

        return jax.lax.scan(body, x, (jnp.arange(num_steps), fresh))[0]

    found = run(denoiser, jnp.asarray(start), jnp.asarray(fresh))
    pixels = autoencoder_decoder(*load_autoencoder(folder))(found)
    record_property("relative", (relative(found, sample), relative(pixels, image)))
    assert relative(found, sample) < 1e-4
    assert relative(pixels, image) < 1e-4
    assert float((image < 1).logical_and(image > 0).float().mean()) > 0.1


_BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
