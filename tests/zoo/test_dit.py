"""DiT and SiT by the command, from a pipeline of diffusers and from the authors' own files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.models.dit import DiTConfig
from jaxsearch.models.dit_folder import TransformerConfig, dit_config, original_names
from jaxsearch.models.folders import read_config, read_weights
from tests.models.published import randomised
from tests.runs.small import KINDS

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAMES = {"0": "tench", "1": "goldfish, Carassius auratus", "2": "crane"}


def change(path, /, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def pipeline(torch, tmp_path, monkeypatch):
    """A tiny pipeline of diffusers in `pipeline`."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=4, patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    randomised(transformer)
    first, *others = (block.norm1.emb for block in transformer.transformer_blocks)
    for other in others:
        other.load_state_dict(first.state_dict())
    vae = AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    folder = tmp_path / "pipeline"
    steps = DDIMScheduler(clip_sample=False)
    DiTPipeline(transformer, randomised(vae), steps).save_pretrained(folder)
    change(folder / "model_index.json", id2label=NAMES)  # as published; it does not write them
    return folder


def pictures(run):
    return {path.name: path.read_bytes() for path in sorted((run / "images").iterdir())}


def search(model, *more):
    few = ["--schedule.num_steps", "3", "--quiet", "--guide", "compressibility", "--report"]
    return cli.main(["search", "--model", str(model), *few, "brightness", *more])


@pytest.mark.parametrize("searcher", KINDS, ids=lambda words: words[0])
def test_a_pipeline_is_searched(pipeline, tmp_path, capsys, searcher):
    more = ["--searcher", *searcher, "--prompts", "1", "tench"]
    assert search(pipeline, *more, "--output", "run") == 0
    assert len(pictures(tmp_path / "run")) >= 2
    assert cli.main(["replay", "run"]) == 0
    assert "2 of 2 images identical" in capsys.readouterr().out


def test_guidance_doubles_the_passes(pipeline, tmp_path):
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--prompts", "1"]
    for name, scale in (("run", "4"), ("plain", "1")):
        assert search(pipeline, *more, "--model.guidance", scale, "--output", name) == 0
    guided, plain = (json.loads((tmp_path / run / "summary.json").read_text()) for run in
                     ("run", "plain"))  # fmt: skip
    passes = [one["plain_cost_per_prompt"]["network_passes"] for one in (guided, plain)]
    assert passes[0] == 2 * passes[1]


def converted(torch, pipeline, kind):
    """The pipeline's weights as the authors' file has them, and its config."""
    config = dit_config(read_config(pipeline / "transformer"))
    tensors = original_names(read_weights(pipeline / "transformer"), config)
    torch.save({"ema": {k: torch.tensor(np.array(v)) for k, v in tensors.items()}}, "weights.pt")
    with open("config.json", "w") as file:
        json.dump(TransformerConfig(config, kind).to_json(), file)
    with open("labels.txt", "w") as file:
        file.write("".join(f"{NAMES[str(label)]}\n" for label in range(3)))
    return ["convert", "weights.pt", "model", "--entry", "ema", "--config", "config.json"]


def test_the_authors_file_is_the_same_model(torch, pipeline, tmp_path, capsys):
    command = converted(torch, pipeline, "dit")
    assert cli.main([*command, "--autoencoder", "pipeline/vae", "--labels", "labels.txt"]) == 0
    assert "model: dit, " in capsys.readouterr().out
    for model in ("model", "pipeline"):
        more = ["--searcher", "best_of_n", "--prompts", "carassius auratus"]
        assert search(model, *more, "--output", f"of_{model}") == 0
    assert pictures(tmp_path / "of_model") == pictures(tmp_path / "of_pipeline")


def test_weights_in_the_former_format_are_the_same_model(torch, pipeline, tmp_path):
    more = ["--searcher", "best_of_n", "--prompts", "tench"]
    assert search(pipeline, *more, "--output", "safe") == 0
    for part in ("transformer", "vae"):
        tensors = {k: torch.tensor(np.array(v)) for k, v in read_weights(pipeline / part).items()}
        torch.save(tensors, (pipeline / part / WEIGHTS).with_suffix(".bin"))
        (pipeline / part / WEIGHTS).unlink()
    pipeline.rename(tmp_path / "former")  # another name, or it would still be in memory
    assert search(tmp_path / "former", *more, "--output", "bin") == 0
    assert pictures(tmp_path / "safe") == pictures(tmp_path / "bin")


def test_a_run_is_replayed_from_anywhere(pipeline, tmp_path, monkeypatch, capsys):
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--prompts", "tench"]
    assert search("pipeline", *more, "--output", "run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["replay", "../run"]) == 0
    assert "1 of 1 images identical" in capsys.readouterr().out


@pytest.mark.parametrize("prediction", ["score", "noise"])
def test_a_sit_that_predicts_no_velocity_does_not_begin_at_pure_noise(
    torch, pipeline, tmp_path, prediction
):
    command = converted(torch, pipeline, "sit")
    change(tmp_path / "config.json", prediction=prediction, path="gvp")
    assert cli.main([*command, "--autoencoder", "pipeline/vae"]) == 0
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--prompts", "0"]
    assert search("model", *more, "--output", "run") == 0
    (record,) = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert "null" not in record  # a score that is no number


def test_an_autoencoder_of_other_latents_is_refused(torch, pipeline, capsys):
    command = [*converted(torch, pipeline, "dit"), "--autoencoder", "pipeline/vae"]
    change(pipeline / "vae" / "config.json", latent_channels=16)
    assert cli.main(command) == 2
    assert "its latents have 16 channels, the network's 4" in capsys.readouterr().err
    assert search(pipeline, "--searcher", "best_of_n") == 2
    assert "its latents have 16 channels, the network's 4" in capsys.readouterr().err


@pytest.mark.parametrize("searcher", KINDS[1:], ids=lambda words: words[0])
def test_sit_is_searched(torch, pipeline, tmp_path, capsys, searcher):
    assert cli.main([*converted(torch, pipeline, "sit"), "--autoencoder", "pipeline/vae"]) == 0
    more = ["--searcher", *searcher, "--prompts", "0,2"]
    assert search("model", *more, "--output", "run") == 0
    assert "name: shifted" in (tmp_path / "run" / "config.yaml").read_text()
    assert cli.main(["replay", "run"]) == 0
    assert "2 of 2 images identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "transformer/config.json").unlink(), "transformer/config.json"),
        (lambda p: change(p / "transformer/config.json", norm_type="ada_norm"), "norm_type is"),
        (
            lambda p: change(p / "scheduler/scheduler_config.json", beta_schedule="scaled_linear"),
            "beta_schedule is 'scaled_linear': only 'linear' is supported",
        ),
        (
            lambda p: change(p / "scheduler/scheduler_config.json", prediction_type="v_prediction"),
            "prediction_type is 'v_prediction'",
        ),
        (lambda p: change(p / "model_index.json", _class_name="SanaPipeline"), "'SanaPipeline'"),
        (lambda p: change(p / "model_index.json", id2label={"0": "a"}), "no name for the class 1"),
        (lambda p: (p / "vae" / WEIGHTS).write_bytes(b"\x10"), "vae/"),
        (lambda p: (p / "transformer" / WEIGHTS).unlink(), "transformer/"),
    ],
)  # fmt: skip
def test_what_is_missing_or_unsupported_is_one_line(pipeline, capsys, damage, message):
    damage(pipeline)
    assert search(pipeline, "--searcher", "best_of_n") == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "name their --autoencoder"),
        (["--autoencoder", "none"], "cannot read none/config.json"),
        (["--autoencoder", "pipeline/vae", "--entry", "model"], "it has no entry 'model'"),
    ],
)
def test_a_conversion_that_lacks_something(torch, pipeline, tmp_path, capsys, more, message):
    assert cli.main([*converted(torch, pipeline, "dit"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_published_configs_have_the_published_shape():
    from jaxsearch.runs.converting import PUBLISHED

    assert PUBLISHED["dit-xl-2-256"].network == DiTConfig()
    assert PUBLISHED["dit-xl-2-512"].network.input_size == 64
    assert PUBLISHED["sit-xl-2-256"].kind == "sit"
