"""SiT's outputs and time against their equations, an analytic Gaussian and a network of PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import flow, karras, shifted, trigonometric
from jaxsearch.models.dit_folder import load_dit_folder
from jaxsearch.models.sit import interpolant_denoiser, sit_denoiser
from jaxsearch.solvers import first_order
from tests.jitted import called
from tests.models.published import relative, to_torch, written

PREDICTIONS = ("velocity", "score", "noise")
PATHS = ("linear", "gvp")
MEAN, STD = np.array([0.7, -2.0, 0.0]), np.array([0.4, 0.1, 1.5])


def interpolant(path: str, s):
    """Scales of data and noise in SiT's own time: all noise at 0, all data at 1."""
    if path == "linear":
        return s, 1.0 - s
    return np.sin(np.pi * s / 2), np.cos(np.pi * s / 2)


def slopes(path: str, s):
    """Their derivatives, by differences in float64."""
    (a, b), (c, d) = (interpolant(path, s + step) for step in (-1e-6, 1e-6))
    return (c - a) / 2e-6, (d - b) / 2e-6


def outputs(path: str, prediction: str, x, s):
    """What a perfect network says of `x` [n, 3] at SiT's times `s` [n], and E[x0|x], E[eps|x]."""
    a, b = (v[:, None] for v in interpolant(path, s))
    total = a**2 * STD**2 + b**2
    x0 = MEAN + a * STD**2 / total * (x - a * MEAN)
    eps = b / total * (x - a * MEAN)
    if prediction == "velocity":
        da, db = (v[:, None] for v in slopes(path, s))
        return da * x0 + db * eps, x0, eps
    return {"noise": eps, "score": -(x - a * MEAN) / total}[prediction], x0, eps


def perfect(path: str, prediction: str):
    """The perfect network as one of this library's, but never traced: its numbers are NumPy's."""

    def apply(params, x, s, cond):
        output = outputs(path, prediction, np.asarray(x, np.float64), np.asarray(s, np.float64))
        return jnp.asarray(output[0], jnp.float32)

    return apply


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_outputs_become_the_posterior_means_of_a_gaussian(path, prediction):
    """From its noisy end (a velocity's very end) to its clean one.

    Kills: time not flipped, or flipped for the network only; the sign of the velocity or of the
    score; a missing `pi / 2`; one path's process for the other's.
    """
    t = np.array([1.0 if prediction == "velocity" else 0.98, 0.9, 0.5, 0.2, 0.03])
    x = np.random.default_rng(0).normal(size=(5, 3)) * 1.5
    _, x0, eps = outputs(path, prediction, x, 1.0 - t)
    denoiser = interpolant_denoiser(
        perfect(path, prediction), (), shape=(3,), prediction=prediction, path=path
    )
    found = denoiser(jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32), None)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=2e-5)
    process = denoiser.process
    assert process is {"linear": flow(), "gvp": trigonometric()}[path]
    again = process.alpha(t)[:, None] * found.x0 + process.sigma(t)[:, None] * found.eps
    np.testing.assert_allclose(again, x, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_noise_flows_into_the_gaussian(path, prediction):
    """The flow takes noise `z` to `mean + std*z`: from the very noise where there is a velocity.

    Kills: a schedule of the wrong process.
    """
    denoiser = interpolant_denoiser(
        perfect(path, prediction), (), shape=(3,), prediction=prediction, path=path
    )
    if prediction == "velocity":
        schedule = shifted(denoiser.process, num_steps=100)
    else:
        schedule = karras(denoiser.process, num_steps=100, sigma_min=0.005, sigma_max=500.0)
    solver = first_order(schedule, eta=0.0)
    z = x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    for i in range(100):
        x = solver.step(lambda x, t: denoiser(x, t, None), x, jnp.full(4, i), 0 * x, ()).x
    np.testing.assert_allclose(x, MEAN + STD * np.asarray(z), atol=0.05)


# ----------------------------------------------------------------------------------------- network

CLASSES = 5


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The network in PyTorch, and the config and weights of the same here."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    reference, folder = written(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=8,
            num_embeds_ada_norm=CLASSES,
        ),
        tmp_path_factory.mktemp("sit"),
    )
    # As the published networks were trained; see `test_dit`.
    reference.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
    return reference, *load_dit_folder(folder)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ask(reference, x, s, labels, scale: float):
    """Its guided output [n, h, w, 4] at SiT's times, three of four channels guided."""
    import torch

    yes, no = (
        reference(to_torch(x), torch.as_tensor(s, dtype=torch.float32), torch.as_tensor(label))
        .sample.permute(0, 2, 3, 1)
        .numpy()[..., :4]
        for label in (labels, np.full_like(labels, CLASSES))
    )
    guided = no + scale * (yes - no)
    return np.concatenate([guided[..., :3], yes[..., 3:]], axis=-1).astype(np.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_denoiser(network, path, prediction, scale, record_property):
    """The network is asked at `s = 1 - t` as it is, and its output solved for `x0` and `eps`.

    The equations are solved as a pair here: `x = a*x0 + b*eps` and what the output is of them.

    Kills: time in thousandths; the half of the variance; the fourth channel guided.
    """
    reference, config, params = network
    t, labels = np.array([0.95, 0.6, 0.33, 0.08]), np.array([1, 0, 4, CLASSES])
    x = normal(0, 4, 8, 8, 4)
    output = ask(reference, x, 1.0 - t, labels, scale)
    (a, b), (da, db) = interpolant(path, 1.0 - t), slopes(path, 1.0 - t)
    ones, zeros = np.ones(4), np.zeros(4)
    second = {"velocity": (da, db), "noise": (zeros, ones), "score": (zeros, -1.0 / b)}[prediction]
    pairs = np.stack([np.stack([a, b], -1), np.stack(second, -1)], axis=1)  # [n, 2, 2]
    known = np.stack([x.astype(np.float64), output], axis=-1)[..., None]
    solved = np.linalg.solve(pairs[:, None, None, None], known)[..., 0]
    denoiser = sit_denoiser(config, params, prediction=prediction, path=path, guidance=scale)
    found = called(
        denoiser, jnp.asarray(x), jnp.asarray(t, jnp.float32), jnp.asarray(labels, jnp.int32)
    )
    record_property("relative", [relative(f, solved[..., i]) for i, f in enumerate(found)])
    assert relative(found.x0, solved[..., 0]) < 2e-5
    assert relative(found.eps, solved[..., 1]) < 2e-5
    assert denoiser.passes == (1 if scale == 1 else 2)
    assert denoiser.shape == (8, 8, 4)


def test_a_whole_trajectory(network, record_property):
    """The guided Euler steps of `first_order` are those of SiT in its own time, from pure noise."""
    reference, config, params = network
    num_steps, scale, labels = 6, 2.5, np.array([3, 1])
    x = normal(3, 2, 8, 8, 4)
    denoiser = sit_denoiser(config, params, guidance=scale)
    solver = first_order(shifted(flow(), num_steps=num_steps), eta=0.0)
    cond = jnp.asarray(labels, jnp.int32)

    def body(x, index):
        step = solver.step(lambda x, t: denoiser(x, t, cond), x, jnp.full(2, index), 0 * x, ())
        return step.x, None

    found = jax.lax.scan(body, jnp.asarray(x), jnp.arange(num_steps))[0]
    for i in range(num_steps):
        velocity = ask(reference, x, np.full(2, i / num_steps), labels, scale)
        x = (x + velocity / num_steps).astype(np.float32)
    record_property("relative", relative(found, x))
    assert relative(found, x) < 1e-4


def test_equal_settings_share_one_program(network):
    traces = []

    @jax.jit
    def run(denoiser, args):
        traces.append(None)
        return denoiser(*args).x0

    _, config, params = network
    args = jnp.asarray(normal(0, 1, 8, 8, 4)), jnp.full(1, 0.5), jnp.zeros(1, jnp.int32)
    first = run(sit_denoiser(config, params, guidance=2.0), args)
    assert not np.allclose(first, run(sit_denoiser(config, params, guidance=5.0), args))
    assert len(traces) == 1


def test_what_is_unknown_is_named(network):
    _, config, params = network
    with pytest.raises(ValueError, match="unknown prediction 'x0': take 'velocity', 'score' or"):
        sit_denoiser(config, params, prediction="x0")
    with pytest.raises(ValueError, match="unknown path 'vp': take 'linear' or 'gvp'"):
        sit_denoiser(config, params, path="vp")
