"""From a published checkpoint to searched pictures, by the command."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.models.adm import AdmConfig, build
from jaxsearch.models.edm_folder import EdmConfig, Preconditioning
from jaxsearch.models.song import SongConfig
from jaxsearch.models.song import build as build_song
from tests.runs.small import KINDS

ADM = EdmConfig(
    AdmConfig(
        image_size=8, model_channels=32, channel_mult=(1, 1), num_res_blocks=1,
        attention_resolutions=(4,), head_channels=32, num_classes=3,
    )
)  # fmt: skip
SONG = EdmConfig(
    SongConfig(image_size=8, model_channels=16, channel_mult=(1,), num_blocks=1),
    Preconditioning("ve"),
)
LABELS = "tabby, tabby cat\ngoldfinch\nteapot\n"


def state_dict(config):
    """Random tensors of a config's network, as PyTorch keeps them."""
    from jaxsearch.models.loading import abstract_module, parameters

    make = build if config.kind == "adm" else build_song
    abstract = abstract_module(make(config.network))
    rng, found = np.random.default_rng(0), {}

    def walk(tree, prefix):
        for name, leaf in tree.items():
            if isinstance(leaf, dict):
                walk(leaf, f"{prefix}{name}.")
                continue
            axes = {"kernel": {2: (1, 0), 4: (3, 2, 0, 1)}}.get(name, {}).get(leaf.ndim)
            shape = leaf.shape if axes is None else tuple(leaf.shape[axis] for axis in axes)
            key = "weight" if name in ("kernel", "scale", "embedding") else name
            found[prefix + key] = rng.normal(0, 0.2, shape).astype(np.float32)

    walk(parameters(abstract), "")
    return found


@pytest.fixture
def checkpoint(torch, tmp_path, monkeypatch):
    """Writes `weights.pt`, `config.json` and `labels.txt` of a config in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)

    def write(config):
        weights = {key: torch.from_numpy(value) for key, value in state_dict(config).items()}
        torch.save(weights, "weights.pt")
        (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
        (tmp_path / "labels.txt").write_text(LABELS)

    return write


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def convert(*more):
    return cli.main(["convert", "weights.pt", "model", "--config", "config.json", *more])


SEARCH = ["search", "--model", "model", "--schedule.num_steps", "4", "--quiet"]


@pytest.mark.parametrize("searcher", KINDS, ids=lambda words: words[0])
def test_a_checkpoint_is_searched(checkpoint, capsys, tmp_path, searcher):
    checkpoint(ADM)
    assert convert("--labels", "labels.txt") == 0
    assert "model: adm, 354,339 parameters, 8x8 pixels, edm, 3 classes" in capsys.readouterr().out
    more = ["--searcher", *searcher, "--prompts", "2", "tabby", "teapot", "--output", "run"]
    assert cli.main([*SEARCH, *more]) == 0
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["prompt"] for row in rows] == ["2", "tabby", "teapot"]
    assert cli.main(["replay", "run"]) == 0
    assert "3 of 3 images identical" in capsys.readouterr().out


def test_a_network_that_is_told_nothing(checkpoint, tmp_path, capsys):
    checkpoint(SONG)
    assert convert() == 0
    assert "8x8 pixels, ve, no classes" in capsys.readouterr().out
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--output", "run"]
    assert cli.main([*SEARCH, *more]) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "prompts: [any, any, any, any]" in config
    assert "sigma_min: 0.02" in config
    assert cli.main([*SEARCH, "--prompts", "cat"]) == 2
    assert "'cat' is no prompt of this model: it is told nothing" in capsys.readouterr().err


def test_prompts_from_a_file(checkpoint, tmp_path, capsys):
    checkpoint(ADM)
    assert convert("--labels", "labels.txt") == 0
    (tmp_path / "prompts.txt").write_text("0 1\n\ntabby cat\n")
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--output", "run"]
    assert cli.main([*SEARCH, *more, "--prompts", "@prompts.txt", "2"]) == 0
    assert "prompts: ['0', '1', tabby cat, '2']" in (tmp_path / "run/config.yaml").read_text()
    assert cli.main([*SEARCH, *more, "--prompts", "@none.txt"]) == 2
    assert "none.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "none.pt", "model"], "cannot read none.pt"),
        (["convert", "labels.txt", "model"], "cannot read labels.txt as weights"),
        (["convert", "weights.pt", "model"], "say which network they are of"),
        (
            ["convert", "weights.pt", "model", "--config", "openai-edm-imagenet64"],
            "weights.pt does not hold the weights of Adm; missing: ",
        ),
        (["convert", "weights.pt", "model", "--config", "none.json"], "cannot read none.json"),
        (
            ["convert", "weights.pt", "model", "--config", "config.json", "--labels", "two.txt"],
            "there are 2 labels for 3 classes",
        ),
        (
            ["convert", "weights.pt", "model", "--config", "config.json", "--labels", "latin.txt"],
            "cannot read the file of labels latin.txt",
        ),
        (["convert", "weights.pt"], "the following arguments are required: FOLDER"),
        (["convert", "weights.pt", ".", "--config", "config.json"], ". is not empty"),
        (
            ["search", "--model", "empty"],
            "holds no checkpoint: it has no model_index.json",
        ),
        (["search", "--model", "other"], "family is 'flux', but there is only DiTPipeline"),
        (["search", "--model", "some/where/else"], "there is no folder some/where/else"),
    ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, capsys, arguments, message):
    checkpoint(ADM)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"family": "flux"}')
    assert cli.main(arguments) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.startswith("jaxsearch: ")
    assert complaint.count("\n") == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["3"], "'3' is no prompt of this model: take a number from 0 to 2 or the name"),
        (["cat"], "'cat' is no prompt of this model: take a number from 0 to 2 or the name"),
    ],
)
def test_unknown_classes_are_refused(checkpoint, capsys, prompts, message):
    checkpoint(ADM)
    assert convert("--labels", "labels.txt") == 0
    assert cli.main([*SEARCH, "--prompts", *prompts]) == 2
    assert message in capsys.readouterr().err


def test_a_conversion_that_stops_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    checkpoint(ADM)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("jaxsearch.models.converted.json.dumps", stop)  # of what is written last
    assert convert("--labels", "labels.txt") == 130
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_folder_is_taken_and_another_encoding_named(checkpoint, tmp_path, capsys):
    checkpoint(ADM)
    (tmp_path / "model").mkdir()
    assert convert("--labels", "labels.txt") == 0
    (tmp_path / "model" / "labels.txt").write_bytes(b"caf\xe9\n")
    assert cli.main(SEARCH) == 2
    complaint = capsys.readouterr().err
    assert "model/labels.txt: it is no text in UTF-8" in complaint
    assert complaint.count("\n") == 1


def test_a_run_knows_its_weights(checkpoint, tmp_path, capsys):
    checkpoint(SONG)
    assert convert() == 0
    more = ["--searcher", "best_of_n", "--searcher.candidates", "1", "--output", "run"]
    assert cli.main([*SEARCH, *more]) == 0
    run, weights = tmp_path / "run", tmp_path / "model" / "model.safetensors"
    noted = json.loads((run / "versions.json").read_text())["files"]
    assert noted["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert set(noted) == {"model.safetensors", "config.json"}
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    capsys.readouterr()
    cli.main(["replay", "run"])
    assert "model.safetensors is not what it was" in capsys.readouterr().out
    (run / "summary.json").unlink()
    assert cli.main(["search", "--resume", "run"]) == 2
    assert "model.safetensors is not what it was" in capsys.readouterr().err
    assert not (run / "summary.json").exists()


def test_a_damaged_folder_is_refused(checkpoint, tmp_path, capsys):
    checkpoint(ADM)
    assert convert() == 0
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.main(SEARCH) == 2
    assert "cannot read weights from" in capsys.readouterr().err
