"""Models by their id on the Hugging Face hub: fetched once, and one line where they cannot be."""

from __future__ import annotations

import sys
from unittest import mock

import pytest

from jaxsearch import cli, zoo
from jaxsearch.zoo import hub
from jaxsearch.zoo.verifiers.prompted import files_of, located, tokenizer_folder

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(autouse=True)
def _forgotten():
    hub.fetched.cache_clear()


def search(name):
    return cli.main(["search", "--model", name])


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("facebook/DiT-XL-2-256", True),
        ("owner/name.v1_2", True),
        ("owner/name@v1.0", True),
        ("owner/name@", False),
        ("digits", False),
        ("./model", False),
        ("../model", False),
        ("a/b/c", False),
        ("/model", False),
    ],
)
def test_ids_have_an_owner_and_a_name(name, is_id):
    assert hub.is_hub_id(name) == is_id


def test_a_model_is_fetched_once_and_only_what_is_read(tmp_path, monkeypatch, capsys):
    fake = mock.Mock(return_value=str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    for _ in range(2):
        assert search("owner/name") == 2
        assert "_class_name is 'KandinskyPipeline'" in capsys.readouterr().err
    fake.assert_called_once()
    assert fake.call_args.args == ("owner/name",)
    assert fake.call_args.kwargs["revision"] is None
    patterns = fake.call_args.kwargs["allow_patterns"]
    assert "unet/diffusion_pytorch_model.safetensors" in patterns
    assert "tokenizer*/*" in patterns
    index = "text_encoder/model.safetensors.index.json"  # of T5, whose weights are in several files
    assert {index, "text_encoder/model-*.safetensors"} <= set(patterns)
    assert not any("safety_checker" in one or one == "*/model.safetensors" for one in patterns)


def test_an_id_is_kept_with_the_commit_that_was_fetched(tmp_path, monkeypatch):
    folder = tmp_path / "models--owner--name" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    fake = mock.Mock(return_value=str(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert zoo.located("owner/name@main") == "owner/name@0123abc"
    assert fake.call_args.args == ("owner/name",)
    assert fake.call_args.kwargs["revision"] == "main"


def test_what_has_no_safetensors_is_fetched_in_the_former_format(tmp_path, monkeypatch):
    fake = mock.Mock(return_value=str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / part).mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_text("")
    assert hub.fetched("owner/name") == tmp_path
    assert fake.call_args.kwargs["allow_patterns"] == [
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    ]


def test_of_a_vocabulary_no_weights_are_fetched(tmp_path, monkeypatch):
    """Kills: gigabytes of a network of which only the words are read."""
    fake = mock.Mock(return_value=str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert tokenizer_folder("owner/name@main") == tmp_path
    patterns = fake.call_args.kwargs["allow_patterns"]
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= set(patterns)
    assert not any(one.endswith((".safetensors", ".bin")) for one in patterns)
    (tmp_path / "vocab.txt").write_text("[CLS]")
    assert files_of("tokenizer", "owner/name@main") == {"vocab.txt": tmp_path / "vocab.txt"}
    assert located("tokenizer", "owner/name@main") == "owner/name@main"
    fake.assert_called_once()
    files_of("weights", "owner/name@main")
    assert "model.safetensors" in fake.call_args_list[1].kwargs["allow_patterns"]


def failure(kind, monkeypatch):
    response = mock.Mock(status_code=403, headers={}, request=mock.Mock())
    made = kind("no", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("no")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", mock.Mock(side_effect=made))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "owner/name is gated: accept its terms at https://huggingface.co/"),
        (errors.RevisionNotFoundError, "the Hugging Face hub has no such revision of the model"),
        (errors.RepositoryNotFoundError, "the Hugging Face hub has no such model"),
        (errors.LocalEntryNotFoundError, "the Hugging Face hub cannot be reached"),
        (ConnectionError, "the Hugging Face hub cannot be reached"),
    ],
)
def test_what_cannot_be_had_is_one_line(kind, message, monkeypatch, capsys):
    failure(kind, monkeypatch)
    assert search("owner/name") == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1


def test_without_the_network(monkeypatch, capsys, tmp_path):
    """The library itself, told that it is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert search("owner/name") == 2
    assert "the Hugging Face hub cannot be reached" in capsys.readouterr().err


def test_without_the_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert search("owner/name") == 2
    assert 'pip install "jaxsearch[hf]"' in capsys.readouterr().err
