"""The solvers, step by step, against `diffusers` and against Karras et al. 2022's Algorithm 2.

Both sides get the same latents, the same network outputs and the same injected noises: `diffusers`
draws through `randn_tensor`, which a fixture replaces by what the test hands out. Two comparisons
are made of each sampler. *Single steps* put every step of the schedule in a row of its own, on
random latents with random network outputs, so that no coefficient can hide behind a consistent
network. *Trajectories* go from noise to sample with the exact denoiser of a Gaussian mixture, so
that errors of times, order and the last step add up.

Differences are relative to the largest number of a step (at least 1). `jaxsearch` computes in
float32, 6e-8 a rounding. A step makes about five and a trajectory is contractive, so `ROUNDING` is
25 roundings. The clean estimate of a network that predicts the noise is `x/alpha - level*eps`, and
the rounding of `eps` alone moves it by `level` roundings (157 at the start of DDPM): its
differences are taken relative to that. `diffusers` makes its table of `alpha^2` as a product of up
to a thousand float32 numbers, which is off by 1e-5 relative; all tests but one give it a table made
in float64.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.prediction import from_epsilon, from_flow, from_v, from_x0
from jaxsearch.core.process import (
    at,
    edm,
    flow,
    karras,
    shifted,
    trained_steps,
    variance_preserving,
)
from jaxsearch.core.types import Prediction, Process, Schedule, Solver
from jaxsearch.solvers.first_order import first_order
from jaxsearch.solvers.heun import heun
from tests import toys

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

ROUNDING = 1.5e-6
SHAPE = (2, 3)
ROWS = 4
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SEPARATION = np.linspace(0.3, 1.2, ROWS)
ADAPTERS = {"epsilon": from_epsilon, "v_prediction": from_v, "sample": from_x0}


# ------------------------------------------------------------------------------------------ helpers


@pytest.fixture
def draws(monkeypatch):
    """A list of one noise: what `diffusers` gets whenever it draws."""
    box = [None]

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        assert tuple(shape) == box[0].shape
        return torch.as_tensor(box[0], dtype=dtype)

    from diffusers.schedulers import scheduling_ddim, scheduling_ddpm
    from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
    from diffusers.schedulers.deprecated import scheduling_karras_ve as karras_ve

    for module in (scheduling_ddim, scheduling_ddpm, ancestral, karras_ve):
        monkeypatch.setattr(module, "randn_tensor", randn_tensor)
    return box


def vp_of(betas: dict) -> Process:
    """Our process with the `betas` of a scheduler."""
    return variance_preserving(
        beta_start=betas["beta_start"], beta_end=betas["beta_end"], shape=betas["beta_schedule"]
    )


def in_double(scheduler):
    """The scheduler with its table of `alphas_cumprod` made in float64, so that all of it is."""
    config = scheduler.config
    if config.beta_schedule == "linear":
        betas = torch.linspace(config.beta_start, config.beta_end, 1000, dtype=torch.float64)
    else:
        ends = config.beta_start**0.5, config.beta_end**0.5
        betas = torch.linspace(*ends, 1000, dtype=torch.float64) ** 2
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    if not getattr(config, "set_alpha_to_one", True):
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def difference(ours, theirs, least=1.0) -> float:
    """The largest difference [T, ...] relative to the largest number of each step, or `least`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.all(np.isfinite(ours))
    axes = tuple(range(1, ours.ndim))
    scale = np.maximum(least, np.max(np.abs(theirs), axis=axes))
    return float(np.max(np.max(np.abs(ours - theirs), axis=axes) / scale))


@functools.cache
def mixture(process: Process):
    """The exact denoiser of `ROWS` rows as `(x, t) -> Prediction`, compiled."""
    denoiser = toys.mixture_denoiser(process, SHAPE)
    cond = jnp.asarray(SEPARATION, jnp.float32)
    return jax.jit(lambda x, t: denoiser(x, t, cond))


def ask(network, x, t: float) -> Prediction:
    """What the network says to one time for all rows, in and out as float64 NumPy."""
    out = network(np.asarray(x, np.float32), np.full(len(x), t, np.float32))
    return Prediction(*(np.asarray(part, np.float64) for part in out))


def levels_of(schedule: Schedule) -> np.ndarray:
    """Noise-to-signal ratios [T + 1]."""
    return schedule.sigma / schedule.alpha


def normal(seed: int, *lead: int) -> np.ndarray:
    """Standard Gaussians [*lead, *SHAPE], float64 that float32 holds exactly."""
    draw = np.random.default_rng(seed).standard_normal((*lead, *SHAPE))
    return draw.astype(np.float32).astype(np.float64)


def trajectory(solver: Solver, network, x: np.ndarray, noises: np.ndarray):
    """Our latents [T + 1, n, *E] and clean estimates [T, n, *E]."""
    x, noises = np.asarray(x, np.float32), np.asarray(noises, np.float32)

    def body(x, step):
        index, noise = step
        result = solver.step(network, x, jnp.full(len(x), index), noise, ())
        return result.x, (result.x, result.x0)

    scan = jax.jit(lambda *steps: jax.lax.scan(body, x, steps)[1])
    latents, estimates = scan(np.arange(solver.num_steps), noises)
    return np.concatenate([x[None], latents]), np.asarray(estimates)


def single_steps(solver: Solver, adapter, x, output, noise):
    """Every step of the solver at once, row `i` being step `i`, the network saying `output`."""
    schedule = solver.schedule
    alpha, sigma = (jnp.asarray(v[:-1], jnp.float32) for v in (schedule.alpha, schedule.sigma))
    asked = []

    def network(x, t):
        asked.append(t)
        return adapter(x, jnp.asarray(output, jnp.float32), alpha, sigma)

    def step(x, noise):
        result = solver.step(network, x, jnp.arange(len(x)), noise, ())
        return result, asked.pop()

    result, times = jax.jit(step)(np.asarray(x, np.float32), np.asarray(noise, np.float32))
    np.testing.assert_array_equal(times, schedule.times[:-1].astype(np.float32))
    return result


def raw(kind: str, said: Prediction, alpha: float, sigma: float) -> np.ndarray:
    """What a network trained for `kind` puts out when it means `said`."""
    return {
        "epsilon": said.eps,
        "v_prediction": alpha * said.eps - sigma * said.x0,
        "sample": said.x0,
    }[kind]


def compare_trajectory(scheduler, solver, kind, draws, **arguments) -> float:
    """A trajectory of DDPM or DDIM on the mixture, both sides their own way, latents and x0."""
    process, schedule = solver.schedule.process, solver.schedule
    num_steps = solver.num_steps
    np.testing.assert_array_equal(scheduler.timesteps.numpy(), schedule.times[:-1])
    network = mixture(process)
    noises, x = normal(1, num_steps, ROWS), normal(0, ROWS)

    def adapted(x, t):
        alpha, sigma = toys.coefficients(process, t)
        said = network(x, t)
        a, s = alpha[:, None, None], sigma[:, None, None]
        outputs = {"epsilon": said.eps, "v_prediction": a * said.eps - s * said.x0}
        return ADAPTERS[kind](x, outputs.get(kind, said.x0), alpha, sigma)

    latents, estimates = trajectory(solver, adapted, x, noises)
    sample, theirs, their_x0 = torch.tensor(x), [x], []
    for i, t in enumerate(scheduler.timesteps):
        draws[0] = noises[i]
        said = ask(network, sample, float(t))
        alpha = float(scheduler.alphas_cumprod[int(t)]) ** 0.5
        output = raw(kind, said, alpha, (1 - alpha**2) ** 0.5)
        out = scheduler.step(torch.tensor(output), int(t), sample, **arguments)
        sample = out.prev_sample
        theirs.append(sample.numpy())
        their_x0.append(out.pred_original_sample.numpy())
    # What a rounding of the output does to the clean estimate, and by it to the next latent.
    loss = levels_of(schedule)[:-1] if kind == "epsilon" else np.ones(num_steps)
    carried = np.append(1.0, np.maximum(1.0, schedule.alpha[1:] * loss))
    return max(
        difference(latents, theirs, carried),
        difference(estimates, their_x0, np.maximum(1.0, loss)),
    )


def compare_single_steps(scheduler, solver, kind, draws, **arguments) -> float:
    """All steps of DDPM or DDIM on random latents and random outputs."""
    x, output, noise = (normal(seed, solver.num_steps) for seed in (2, 3, 4))
    ours = single_steps(solver, ADAPTERS[kind], x, output, noise)
    theirs, their_x0 = [], []
    for i, t in enumerate(scheduler.timesteps):
        draws[0] = noise[i : i + 1]
        row = slice(i, i + 1)
        out = scheduler.step(torch.tensor(output[row]), int(t), torch.tensor(x[row]), **arguments)
        theirs.append(out.prev_sample[0].numpy())
        their_x0.append(out.pred_original_sample[0].numpy())
    return max(difference(ours.x, theirs), difference(ours.x0, their_x0))


# ----------------------------------------------------------------------------------- DDPM and DDIM


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("betas", "spacing", "offset", "num_steps"),
    [
        (LINEAR, "leading", 0, 50),
        (SCALED, "leading", 1, 50),
        (SCALED, "trailing", 0, 30),
        (LINEAR, "linspace", 0, 40),
        (LINEAR, "leading", 0, 1),
    ],
)
def test_ddpm(kind, betas, spacing, offset, num_steps, draws, record_property):
    """DDPM with the posterior's variance is `eta = 1`, its last step included.

    Kills: up and down swapped; `alpha/alpha'` upside down; the last step given noise; the offset
    left out; trailing counted from 1000; the wrong sign of `v`.
    """
    scheduler = diffusers.DDPMScheduler(
        **betas,
        variance_type="fixed_small",
        clip_sample=False,
        prediction_type=kind,
        timestep_spacing=spacing,
        steps_offset=offset,
    )
    in_double(scheduler).set_timesteps(num_steps)
    schedule = trained_steps(vp_of(betas), num_steps=num_steps, spacing=spacing, offset=offset)
    solver = first_order(schedule, eta=1.0)
    walk = compare_trajectory(scheduler, solver, kind, draws)
    steps = compare_single_steps(scheduler, solver, kind, draws)
    record_property("difference", (walk, steps))
    assert walk < ROUNDING
    assert steps < ROUNDING
    assert solver.active == (True,) * (num_steps - 1) + (False,)


def test_ddpm_all_training_steps(draws, record_property):
    """All thousand steps of DDPM, where rounding adds up to three times as much.

    Kills: coefficients computed in float32 (`1 - alpha^2` loses digits near the data).
    """
    scheduler = diffusers.DDPMScheduler(**LINEAR, variance_type="fixed_small", clip_sample=False)
    in_double(scheduler).set_timesteps(1000)
    solver = first_order(trained_steps(vp_of(LINEAR), num_steps=1000), eta=1.0)
    walk = compare_trajectory(scheduler, solver, "epsilon", draws)
    steps = compare_single_steps(scheduler, solver, "epsilon", draws)
    record_property("difference", (walk, steps))
    assert walk < 3 * ROUNDING
    assert steps < ROUNDING


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("betas", "spacing", "offset", "num_steps", "final", "kind"),
    [
        (LINEAR, "leading", 0, 50, "clean", "epsilon"),
        (LINEAR, "leading", 0, 25, "clean", "sample"),
        (SCALED, "leading", 1, 50, "clean", "v_prediction"),
        (SCALED, "leading", 1, 50, "first", "epsilon"),
        (SCALED, "leading", 1, 20, "first", "v_prediction"),
        (SCALED, "trailing", 0, 25, "clean", "v_prediction"),
        (LINEAR, "trailing", 0, 1, "clean", "epsilon"),
    ],
)
def test_ddim(eta, betas, spacing, offset, num_steps, final, kind, draws, record_property):
    """DDIM at any `eta`, ending clean or (`set_alpha_to_one=False`) at the first training step.

    `diffusers` steps by `1000 // num_steps` whatever its own list of times says, so the cases are
    those where the two agree: strides that divide 1000. `linspace` never does below 1000 steps.

    Kills: `eta` not multiplied into `up`; `eta` squared; `final="first"` ending clean; from_x0 with
    `alpha` and `sigma` exchanged.
    """
    scheduler = diffusers.DDIMScheduler(
        **betas,
        clip_sample=False,
        set_alpha_to_one=final == "clean",
        prediction_type=kind,
        timestep_spacing=spacing,
        steps_offset=offset,
    )
    in_double(scheduler).set_timesteps(num_steps)
    schedule = trained_steps(
        vp_of(betas), num_steps=num_steps, spacing=spacing, offset=offset, final=final
    )
    solver = first_order(schedule, eta=eta)
    walk = compare_trajectory(scheduler, solver, kind, draws, eta=eta)
    steps = compare_single_steps(scheduler, solver, kind, draws, eta=eta)
    record_property("difference", (walk, steps))
    assert walk < ROUNDING
    assert steps < ROUNDING


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_linspace(eta, draws, record_property):
    """`linspace` where DDIM of `diffusers` follows its own list of times: all thousand steps.

    Kills: `linspace` without its last or its first end.
    """
    scheduler = diffusers.DDIMScheduler(**SCALED, clip_sample=False, timestep_spacing="linspace")
    in_double(scheduler).set_timesteps(1000)
    schedule = trained_steps(vp_of(SCALED), num_steps=1000, spacing="linspace")
    steps = compare_single_steps(
        scheduler, first_order(schedule, eta=eta), "epsilon", draws, eta=eta
    )
    record_property("difference", steps)
    assert steps < ROUNDING


def test_untouched_scheduler(draws, record_property):
    """The scheduler as it comes, its tables in float32: what a user of `diffusers` sees."""
    scheduler = diffusers.DDIMScheduler(**SCALED, clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(50)
    assert scheduler.alphas_cumprod.dtype == torch.float32
    solver = first_order(trained_steps(vp_of(SCALED), num_steps=50, offset=1), eta=0.5)
    walk = compare_trajectory(scheduler, solver, "epsilon", draws, eta=0.5)
    record_property("difference", walk)
    assert walk < 3e-5  # of its float32 tables


# ------------------------------------------------------------------------- samplers of x / alpha


def sigma_trajectory(scheduler, network, y, noises, draws, kind="epsilon"):
    """A trajectory of a scheduler that works on `y = x/alpha`: `y` [T + 1, ...] after each call."""
    states, estimates = [np.asarray(y)], []
    y = torch.tensor(np.asarray(y, np.float32))
    for i, t in enumerate(scheduler.timesteps):
        draws[0] = noises[i] if noises is not None else None
        x = scheduler.scale_model_input(y, t)
        said = ask(network, x, float(t))
        level = float(scheduler.sigmas[scheduler.step_index])
        alpha = 1 / (1 + level**2) ** 0.5
        output = torch.tensor(raw(kind, said, alpha, level * alpha), dtype=torch.float32)
        out = scheduler.step(output, t, y)
        y = out.prev_sample
        states.append(y.numpy())
        estimates.append(out.pred_original_sample.numpy())
    return np.stack(states), np.stack(estimates)


def sigma_single_steps(scheduler, y, outputs, noises, draws) -> np.ndarray:
    """Every step of such a scheduler on random `y` [T, *E] with random outputs."""
    states = []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.set_begin_index(i)
        scheduler._step_index = None
        draws[0] = noises[i : i + 1]
        row = torch.tensor(y[i : i + 1], dtype=torch.float32)
        scheduler.scale_model_input(row, t)
        output = torch.tensor(outputs[i : i + 1], dtype=torch.float32)
        states.append(scheduler.step(output, t, row).prev_sample[0].numpy())
    return np.stack(states)


def scaled(latents: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Latents [T + 1, n, *E] as `x / alpha`, in units of the largest signal or noise there."""
    return latents / (schedule.alpha * np.hypot(1, levels_of(schedule)))[:, None, None, None]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("spacing", "offset", "num_steps"), [("leading", 1, 50), ("trailing", 0, 30)]
)
def test_ancestral_euler(kind, spacing, offset, num_steps, draws, record_property):
    """Ancestral Euler is `eta = 1`, seen in `x / alpha`.

    Kills: `sigma` for `sigma/alpha` in `up`; fresh noise not scaled by the new `alpha`.
    """
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        **SCALED, prediction_type=kind, timestep_spacing=spacing, steps_offset=offset
    )
    in_double(scheduler).set_timesteps(num_steps)
    schedule = trained_steps(vp_of(SCALED), num_steps=num_steps, spacing=spacing, offset=offset)
    solver, network = first_order(schedule, eta=1.0), mixture(vp_of(SCALED))
    np.testing.assert_allclose(scheduler.sigmas, levels_of(schedule), rtol=1e-6)
    x, noises = normal(0, ROWS), normal(1, num_steps, ROWS)
    latents, estimates = trajectory(solver, network, x, noises)
    start = x / schedule.alpha[0]
    theirs, their_x0 = sigma_trajectory(scheduler, network, start, noises, draws, kind)
    hypot = np.hypot(1, levels_of(schedule))[:, None, None, None]
    loss = np.maximum(1.0, levels_of(schedule)[:-1])
    walk = max(
        difference(scaled(latents, schedule), theirs / hypot), difference(estimates, their_x0, loss)
    )
    y, outputs, noise = (normal(seed, num_steps) for seed in (2, 3, 4))
    column = schedule.alpha[:, None, None]
    ours = single_steps(solver, ADAPTERS[kind], y * column[:-1], outputs, noise).x / column[1:]
    steps = difference(ours, sigma_single_steps(scheduler, y, outputs, noise, draws))
    record_property("difference", (walk, steps))
    assert walk < 2 * ROUNDING  # both sides compute in float32
    assert steps < ROUNDING


@pytest.mark.parametrize("num_steps", [18, 40])
def test_euler_is_eta_zero_on_edm(num_steps, draws, record_property):
    """EulerDiscreteScheduler on Karras' grid is `eta = 0` on `edm()`.

    Kills: the interpolation of the grid off by one; rho missing; the last step left out.
    """
    scheduler = diffusers.EulerDiscreteScheduler(
        **LINEAR, use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0
    )
    scheduler.set_timesteps(num_steps)
    schedule = karras(edm(), num_steps=num_steps)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigma, rtol=1e-6)
    y, outputs, noise = (normal(seed, num_steps) for seed in (2, 3, 4))
    y = y * schedule.sigma[:-1, None, None]
    solver = first_order(schedule, eta=0.0)
    ours = single_steps(solver, from_epsilon, y, outputs, noise)
    steps = difference(ours.x, sigma_single_steps(scheduler, y, outputs, noise, draws))
    record_property("difference", steps)
    assert steps < ROUNDING
    assert not any(solver.active)


def test_euler_with_karras_levels_on_variance_preserving(draws, record_property):
    """Karras' grid over the whole range of a discrete process, times between the trained ones.

    Kills: times interpolated in the ratio instead of its logarithm.
    """
    process = vp_of(LINEAR)
    scheduler = diffusers.EulerDiscreteScheduler(**LINEAR, use_karras_sigmas=True)
    in_double(scheduler).set_timesteps(30)
    ends = process.sigma(np.array([0, 999])) / process.alpha(np.array([0, 999]))
    schedule = karras(process, num_steps=30, sigma_min=ends[0], sigma_max=ends[1])
    np.testing.assert_allclose(scheduler.sigmas, levels_of(schedule), rtol=1e-6)
    np.testing.assert_allclose(scheduler.timesteps, schedule.times[:-1], atol=1e-4)
    network, x = mixture(process), normal(0, ROWS)
    noises = normal(1, 30, ROWS)
    latents, _ = trajectory(first_order(schedule, eta=0.0), network, x, noises)
    theirs, _ = sigma_trajectory(scheduler, network, x / schedule.alpha[0], noises, draws)
    hypot = np.hypot(1, levels_of(schedule))[:, None, None, None]
    walk = difference(scaled(latents, schedule), theirs / hypot)
    record_property("difference", walk)
    assert walk < ROUNDING


def test_edm_euler(draws, record_property):
    """EDMEulerScheduler, its preconditioning undone, is `eta = 0` on `edm()`."""
    num_steps, network = 25, mixture(edm())
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(num_steps)
    schedule = karras(edm(), num_steps=num_steps)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigma, rtol=1e-6)
    y = 80.0 * normal(0, ROWS)
    latents, estimates = trajectory(
        first_order(schedule, eta=0.0), network, y, normal(1, num_steps, ROWS)
    )
    sample, theirs, their_x0 = torch.tensor(y), [y], []
    for t, level in zip(scheduler.timesteps, schedule.sigma, strict=False):
        scheduler.scale_model_input(sample, t)
        wanted = ask(network, sample, level).x0
        skip = 0.25 / (level**2 + 0.25)
        out_scale = level * 0.5 / (level**2 + 0.25) ** 0.5
        output = torch.tensor((wanted - skip * sample.numpy()) / out_scale)
        out = scheduler.step(output, t, sample)
        sample = out.prev_sample
        theirs.append(sample.numpy())
        their_x0.append(out.pred_original_sample.numpy())
    walk = max(difference(latents, theirs), difference(estimates, their_x0))
    record_property("difference", walk)
    assert walk < ROUNDING


# --------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("shift", [1.0, 3.0, "dynamic"])
@pytest.mark.parametrize("num_steps", [1, 4, 28])
def test_flow_match_euler(shift, num_steps, record_property):
    """FlowMatchEulerDiscreteScheduler is `eta = 0` on `flow()`, its first step from pure noise.

    The grid is FLUX's: even from 1 to 1/T, then shifted. Without explicit sigmas `diffusers` ends
    its even grid at the last training step instead; `at(flow(), ...)` expresses that one.

    Kills: the shift applied the wrong way round; from_flow's sign; the divisor `alpha = 0`.
    """
    even = np.linspace(1.0, 1.0 / num_steps, num_steps)
    if shift == "dynamic":
        shift = float(np.exp(0.8))
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        scheduler.set_timesteps(sigmas=even, mu=0.8)
    else:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=even)
    schedule = shifted(flow(), num_steps=num_steps, shift=shift)
    np.testing.assert_allclose(scheduler.sigmas, schedule.sigma, rtol=1e-6)
    solver, network, x = first_order(schedule, eta=0.0), mixture(flow()), normal(0, ROWS)

    def adapted(x, t):
        said = network(x, t)
        return from_flow(x, said.eps - said.x0, t)

    latents, _ = trajectory(solver, adapted, x, normal(1, num_steps, ROWS))
    sample, theirs = torch.tensor(x, dtype=torch.float32), [x]
    for t in scheduler.timesteps:
        said = ask(network, sample, float(t) / 1000)
        velocity = torch.tensor(said.eps - said.x0, dtype=torch.float32)
        sample = scheduler.step(velocity, t, sample).prev_sample
        theirs.append(sample.numpy())
    walk = difference(latents, theirs)

    x, outputs, noise = (normal(seed, num_steps) for seed in (2, 3, 4))
    ours = single_steps(
        solver, lambda x, v, alpha, sigma: from_flow(x, v, sigma), x, outputs, noise
    )
    theirs = []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.set_begin_index(i)
        scheduler._step_index = None
        rows = (torch.tensor(v[i], dtype=torch.float32) for v in (outputs, x))
        output, row = rows
        theirs.append(scheduler.step(output, t, row).prev_sample.numpy())
    steps = difference(ours.x, theirs)
    record_property("difference", (walk, steps))
    assert walk < ROUNDING
    assert steps < ROUNDING


def test_flow_match_default_grid():
    """The grid that Stable Diffusion 3's pipeline takes, as a schedule of explicit times."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(28)
    schedule = at(flow(), scheduler.sigmas[:-1].double().numpy())
    np.testing.assert_array_equal(schedule.sigma, scheduler.sigmas.double())
    last = shifted(flow(), num_steps=28, shift=3.0).sigma[-2]
    assert schedule.sigma[-2] < 0.1 * last  # so the two grids do differ


# --------------------------------------------------------------------------------------------- Heun

CHURN = {"churn": 40.0, "churn_min": 0.05, "churn_max": 50.0, "noise_inflation": 1.003}
GENTLE = {"churn": 5.0, "churn_min": 0.01, "churn_max": 20.0, "noise_inflation": 1.007}
# 40/18 is above gamma's cap of sqrt(2) - 1, 5/18 below.


def test_heun_discrete(draws, record_property):
    """HeunDiscreteScheduler on Karras' grid is `heun` without churn, on a discrete process.

    Its network is called in the process's own coordinates and at its own times, so this compares
    `x / alpha`, `alpha` at the second call and the inverse of the schedule as well. The clean
    estimate is that of the second call.

    Kills: Euler in the place of Heun; the second call at the first time or scale; the last step
    corrected; x0 of the first call.
    """
    num_steps, process = 18, vp_of(LINEAR)
    scheduler = diffusers.HeunDiscreteScheduler(**LINEAR, use_karras_sigmas=True)
    in_double(scheduler).set_timesteps(num_steps)
    ends = process.sigma(np.array([0, 999])) / process.alpha(np.array([0, 999]))
    schedule = karras(process, num_steps=num_steps, sigma_min=ends[0], sigma_max=ends[1])
    solver, network, x = heun(schedule, churn=0.0), mixture(process), normal(0, ROWS)
    latents, estimates = trajectory(solver, network, x, normal(1, num_steps, ROWS))
    theirs, their_x0 = sigma_trajectory(scheduler, network, x / schedule.alpha[0], None, draws)
    assert len(their_x0) == sum(solver.calls) == 2 * num_steps - 1
    ends_of_steps = [*range(0, 2 * num_steps - 1, 2), 2 * num_steps - 1]
    hypot = np.hypot(1, levels_of(schedule))[:, None, None, None]
    walk = difference(scaled(latents, schedule), theirs[ends_of_steps] / hypot)
    loss = np.maximum(1.0, levels_of(schedule)[:-1])
    clean = difference(estimates, their_x0[[*range(1, 2 * num_steps - 1, 2), -1]], loss)
    record_property("difference", (walk, clean))
    assert walk < ROUNDING
    assert clean < ROUNDING


@pytest.mark.parametrize("churn", [CHURN, GENTLE])
def test_karras_ve(churn, draws, record_property):
    """KarrasVeScheduler's churn and correction, driven over EDM's grid, are `heun` on `edm()`.

    Kills: S_noise left out; the window's ends ignored; gamma without its cap or of T + 1.
    """
    from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

    num_steps, network = 18, mixture(edm())
    schedule = karras(edm(), num_steps=num_steps)
    scheduler = KarrasVeScheduler(
        s_noise=churn["noise_inflation"],
        s_churn=churn["churn"],
        s_min=churn["churn_min"],
        s_max=churn["churn_max"],
    )
    scheduler.set_timesteps(num_steps)
    y, noises = 80.0 * normal(0, ROWS), normal(1, num_steps, ROWS)
    latents, _ = trajectory(heun(schedule, **churn), network, y, noises)
    sample, theirs = torch.tensor(y), [y]
    for i, (now, after) in enumerate(zip(schedule.sigma[:-1], schedule.sigma[1:], strict=True)):
        draws[0] = noises[i]
        raised, raised_level = scheduler.add_noise_to_input(sample, now)
        output = torch.tensor(-ask(network, raised, raised_level).eps)
        out = scheduler.step(output, raised_level, after, raised)
        sample = out.prev_sample
        if after > 0:
            output = torch.tensor(-ask(network, sample, after).eps)
            sample = scheduler.step_correct(
                output, raised_level, after, raised, sample, out.derivative
            ).prev_sample
        theirs.append(sample.numpy())
    walk = difference(latents, theirs)
    record_property("difference", walk)
    assert walk < ROUNDING


def exact_x0(y: np.ndarray, level: float) -> np.ndarray:
    """`E[x0 | y]` of the mixture for `y = x0 + level*noise`, float64, by its responsibilities."""
    mean = np.stack([SEPARATION, -SEPARATION])[:, :, None, None]
    total = 0.3**2 + level**2
    log_weight = -np.sum((y - mean) ** 2, axis=(2, 3), keepdims=True) / (2 * total)
    weight = np.exp(log_weight - np.logaddexp(*log_weight))
    return np.sum(weight * (mean + 0.3**2 / total * (y - mean)), axis=0)


def algorithm_2(denoise, levels, y, noises, *, churn, churn_min, churn_max, noise_inflation):
    """Karras et al. 2022, Algorithm 2, line by line in float64.

    Returns the latents [T + 1, ...], the steps whose gamma is positive and the number of calls.
    """
    num_steps, states, churned, calls = len(levels) - 1, [y], [], 0
    for i in range(num_steps):
        t_i, t_next = levels[i], levels[i + 1]
        gamma = min(churn / num_steps, np.sqrt(2) - 1) if churn_min <= t_i <= churn_max else 0.0
        if gamma > 0:
            churned.append(i)
        t_hat = t_i + gamma * t_i
        x_hat = states[-1] + np.sqrt(t_hat**2 - t_i**2) * noise_inflation * noises[i]
        d_i = (x_hat - denoise(x_hat, t_hat)) / t_hat
        calls += 1
        x_next = x_hat + (t_next - t_hat) * d_i
        if t_next != 0:
            d_prime = (x_next - denoise(x_next, t_next)) / t_next
            calls += 1
            x_next = x_hat + (t_next - t_hat) * (0.5 * d_i + 0.5 * d_prime)
        states.append(x_next)
    return np.stack(states), churned, calls


@pytest.mark.parametrize("settings", [CHURN, GENTLE, {**CHURN, "churn": 0.0}])
@pytest.mark.parametrize("name", ["edm", "variance_preserving", "flow"])
def test_algorithm_2(name, settings, record_property):
    """`heun` is Algorithm 2 on every process, since all are one in `x / alpha`.

    Kills: S_noise left out; gamma divided by T + 1; the window open at its ends or shifted by a
    step; churned levels not inverted into times; `x` not divided by `alpha`.
    """
    process, num_steps = toys.processes()[name], 18
    # Ho et al.'s process reaches down to 0.01, EDM's grid goes to 0.002.
    low = 0.0101 if name == "variance_preserving" else 0.002
    schedule = karras(process, num_steps=num_steps, sigma_min=low)
    levels, y = levels_of(schedule), 80.0 * normal(0, ROWS)
    noises = normal(1, num_steps, ROWS)
    denoiser, counter = toys.counting(toys.mixture_denoiser(process, SHAPE))
    cond = jnp.asarray(SEPARATION, jnp.float32)
    solver = heun(schedule, **settings)
    latents, _ = trajectory(
        solver, lambda x, t: denoiser(x, t, cond), schedule.alpha[0] * y, noises
    )
    theirs, churned, calls = algorithm_2(exact_x0, levels, y, noises, **settings)
    hypot = np.hypot(1, levels)[:, None, None, None]
    walk = difference(scaled(latents, schedule), theirs / hypot)
    record_property("difference", walk)
    assert walk < ROUNDING
    assert [i for i, active in enumerate(solver.active) if active] == churned
    assert counter.rows == ROWS * calls == ROWS * sum(solver.calls)


def test_default_sampler_of_edm():
    """The published settings: noise at steps 2 to 14 of 18, 35 network calls, that grid.

    Kills: `<` for `<=` and other windows, Heun in the last step, a step more or less in the grid.
    """
    solver = heun(karras(edm()))
    assert [i for i, active in enumerate(solver.active) if active] == list(range(2, 15))
    assert sum(solver.calls) == 35
    assert solver.calls == (2,) * 17 + (1,)
    level, gamma = 40.786, 2**0.5 - 1  # 40/18 is above the cap
    raised = level * (1 + gamma)
    injected = 1.003 * (raised**2 - level**2) ** 0.5
    np.testing.assert_allclose(solver.noise_scale[2], injected, rtol=1e-4)


def test_rows_at_different_steps():
    """A batch whose rows stand at different steps moves each as if it were alone.

    The row in the last step is not corrected though others are, and a network that is not defined
    at the clean end (EDM's divides by `sigma`) is never asked there.

    Kills: the index of the first row taken for all; NaN from a second call at sigma = 0.
    """
    schedule = karras(edm(), num_steps=6)

    seen = []

    def network(x, t):
        jax.debug.callback(lambda t: seen.append(np.min(t)), t)
        return from_x0(x, jnp.tanh(x), jnp.ones_like(t), t)

    for solver in (heun(schedule), first_order(schedule, eta=0.7)):
        step = jax.jit(lambda x, i, noise, step=solver.step: step(network, x, i, noise, ()))
        x, noise = (np.asarray(normal(seed, 6), np.float32) for seed in (0, 1))
        together = step(x, np.arange(6), noise)
        for i in range(6):
            row = slice(i, i + 1)
            alone = step(x[row], np.array([i]), noise[row])
            np.testing.assert_allclose(together.x[row], alone.x, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(together.x0[row], alone.x0, rtol=1e-6, atol=1e-6)
        jax.effects_barrier()
        assert len(seen) == max(solver.calls) + sum(solver.calls)
        assert min(seen) > 0
        seen.clear()
