"""Published verifiers by the command: weights from files, and prompts' words in their own form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxsearch import cli
from jaxsearch.models import image_reward, open_clip
from jaxsearch.zoo.verifiers import PUBLISHED
from tests.models import test_bert_tokenizer as bert
from tests.models.test_image_reward import saved as save_image_reward
from tests.models.test_open_clip import saved as save_open_clip
from tests.zoo import checkpoints
from tests.zoo.checkpoints import FEATURES, LENGTH, SIDE

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A tiny CLIP of transformers, its folder, and a predictor's file beside it."""
    folder = tmp_path_factory.mktemp("verifiers")
    model, _ = checkpoints.clip(folder / "clip")
    return model, folder, checkpoints.aesthetic_head(folder / "head.pth", FEATURES, version="2")


@pytest.fixture
def work(reference, tmp_path, monkeypatch):
    """A folder beside which the weights lie, by names without a path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    for name in ("clip", "head.pth"):
        (tmp_path / name).symlink_to(reference[1] / name)
    return tmp_path


def search(*more):
    few = ["--searcher", "best_of_n", "--searcher.candidates", "2", "--schedule.num_steps", "4"]
    return cli.main(["search", *few, "--prompts", "3", "7", "3", "--quiet", *more])


CLIP = ["--verifiers.clip_score.weights", "clip"]
AESTHETIC = ["--verifiers.aesthetic.weights", "clip", "--verifiers.aesthetic.head", "head.pth"]


def embedding(model, path):
    """Of a picture as OpenAI's own preprocessing gives it to the network, by Pillow."""
    picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    x = ((np.asarray(picture) / 255 - mean) / std).transpose(2, 0, 1)[None]
    with torch.no_grad():
        found = model.get_image_features(torch.from_numpy(x).float())
    return getattr(found, "pooler_output", found)[0].numpy()


def words(model, folder, text):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(text, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        found = model.get_text_features(ids)
    return getattr(found, "pooler_output", found)[0].numpy()


@pytest.mark.parametrize("form", ["cosine", "clip_score"])
def test_scores_are_those_of_transformers_on_the_published_pictures(reference, work, form):
    """Kills: prompts' words of another place; a prefix left out; pictures before their 8 bits."""
    model, folder, layers = reference
    more = [*CLIP, "--verifiers.clip_score.form", form, *AESTHETIC, "--report", "aesthetic"]
    assert search("--guide", "clip_score", *more, "--output", "run") == 0
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["3", "7", "3"]
    for index, row in enumerate(rows):
        picture = embedding(model, work / "run" / "images" / f"found_{index:04d}.png")
        prefix = "A photo depicts " if form == "clip_score" else ""
        text = words(model, folder / "clip", prefix + row["prompt"])
        cosine = picture @ text / np.linalg.norm(picture) / np.linalg.norm(text)
        wanted = 2.5 * max(cosine, 0) if form == "clip_score" else cosine
        np.testing.assert_allclose(row["scores"]["clip_score"]["found"], wanted, atol=2e-5)
        rating = torch.from_numpy(picture / np.linalg.norm(picture))
        for place in (0, 2, 4, 6, 7):
            weight, bias = (layers[f"layers.{place}.{kind}"] for kind in ("weight", "bias"))
            rating = weight @ rating + bias
        np.testing.assert_allclose(row["scores"]["aesthetic"]["found"], rating.item(), atol=2e-4)


def test_pick_score_is_that_of_transformers_on_the_published_pictures(reference, work):
    """Its vocabulary lies elsewhere, and another CLIP's words beside its own.

    Kills: the scale left out, or taken as it is; prompts read with the other's prefix; a vocabulary
    that the run does not note.
    """
    model, folder, _ = reference
    (work / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (work / "bare" / name).symlink_to(folder / "clip" / name)
    more = ["--verifiers.pick_score.weights", "bare", "--verifiers.pick_score.tokenizer", "clip"]
    more += ["--report", "clip_score", *CLIP, "--verifiers.clip_score.form", "clip_score"]
    assert search("--guide", "pick_score", *more, "--output", "run") == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"pick_score/weights/config.json", "pick_score/tokenizer/vocab.json"} <= set(noted)
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        picture = embedding(model, work / "run" / "images" / f"found_{index:04d}.png")
        text = words(model, folder / "clip", row["prompt"])
        cosine = picture @ text / np.linalg.norm(picture) / np.linalg.norm(text)
        wanted = model.logit_scale.exp().item() * cosine
        np.testing.assert_allclose(row["scores"]["pick_score"]["found"], wanted, atol=2e-5)


def open_clip_words(folder, text):
    """Of texts whose tokens OpenCLIP pads with zeros, by `transformers`."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(text, padding="max_length", max_length=LENGTH, return_tensors="pt")
    return ids.input_ids * ids.attention_mask


@pytest.mark.parametrize("antialias", [False, True])
def test_hps_is_the_written_out_network_on_the_published_pictures(
    reference, work, monkeypatch, antialias
):
    """Through PyTorch's interpolation of the picture's file, and OpenCLIP's layers in PyTorch.

    Kills: resizing before the file is floats; one filter for the other; entities and curly quotes
    left in a prompt; the other setting of `antialias`.
    """
    monkeypatch.setattr(open_clip, "VIT_H_14", checkpoints.OPEN_CLIP)
    model = save_open_clip(work / "HPS_v2.1_compressed.pt", checkpoints.OPEN_CLIP)
    more = [
        "--verifiers.hps.weights",
        "HPS_v2.1_compressed.pt",
        "--verifiers.hps.tokenizer",
        "clip",
    ]
    more += ["--verifiers.hps.antialias", str(antialias).lower(), "--report", "brightness"]
    assert search("--guide", "hps", *more, "--output", "run") == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"hps/weights/HPS_v2.1_compressed.pt", "hps/tokenizer/vocab.json"} <= set(noted)
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    for index, row in enumerate(rows):
        picture = Image.open(work / "run" / "images" / f"found_{index:04d}.png").convert("RGB")
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        x = torch.nn.functional.interpolate(
            x, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=antialias
        )
        image = model.encode_image((x - mean) / std)[0].numpy()
        text = model.encode_text(open_clip_words(work / "clip", row["prompt"]))[0].numpy()
        cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
        np.testing.assert_allclose(row["scores"]["hps"]["found"], cosine, atol=2e-5)


def test_prompts_of_hps_are_cleaned_as_open_clip_does(reference, work, monkeypatch):
    monkeypatch.setattr(open_clip, "VIT_H_14", checkpoints.OPEN_CLIP)
    save_open_clip(work / "hps.pt", checkpoints.OPEN_CLIP)
    context = PUBLISHED["hps"](weights="hps.pt", tokenizer="clip").context
    written = ["the \u201ccat\u201d &amp; the cat\u2019s hat", "1 &amp;lt; 2", "<b> &amp;amp; a"]
    plain = ['the "cat" & the cat\'s hat', "1 < 2", "<b> & a"]
    found, wanted = (context(texts)["hps_text"] for texts in (written, plain))
    np.testing.assert_array_equal(found, wanted)


def test_image_reward_is_that_of_transformers_on_the_published_pictures(work, monkeypatch):
    """By the BLIP classes of transformers, its tokenizer and Pillow; prompts of several lengths.

    Kills: prompts that are read at another length or with their padding; pictures of another
    preprocessing; a vocabulary that the run does not note.
    """
    monkeypatch.setattr(image_reward, "PUBLISHED", checkpoints.IMAGE_REWARD)
    model = save_image_reward(work / "ImageReward.pt", checkpoints.IMAGE_REWARD)
    (work / "bert").mkdir()
    bert.write_vocabulary(work / "bert")
    few = ["--searcher", "best_of_n", "--searcher.candidates", "2", "--schedule.num_steps", "4"]
    more = ["--verifiers.image_reward.weights", "ImageReward.pt", "--report", "brightness"]
    more += ["--verifiers.image_reward.tokenizer", "bert", "--quiet", "--output", "run"]
    prompts = ["a red circle", "a blue star to the left of a red circle"]
    given = ["search", "--model", "scenes", "--prompts", *prompts, "--guide", "image_reward"]
    assert cli.main([*given, *few, *more]) == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"image_reward/weights/ImageReward.pt", "image_reward/tokenizer/vocab.txt"} <= set(noted)
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for index, row in enumerate(rows):
        picture = Image.open(work / "run" / "images" / f"found_{index:04d}.png").convert("RGB")
        x = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
        x = torch.from_numpy(((x - mean) / std).transpose(2, 0, 1)[None]).float()
        ids = torch.as_tensor(bert.wanted(work / "bert", [row["prompt"]], 35))
        found = row["scores"]["image_reward"]["found"]
        np.testing.assert_allclose(found, model(x, ids).item(), atol=2e-5)


def test_classes_are_those_of_transformers_on_the_published_pictures(reference, work):
    """Kills: classes in another order; a template left out; directions of any length averaged."""
    model, folder, _ = reference
    names, templates = [f"the {name}" for name in "abcdefghij"], ["{} cat", "and {}"]
    (work / "names.txt").write_text("\n".join(names))
    (work / "templates.txt").write_text("\n".join(templates) + "\n")
    more = [part for key, value in (
        ("weights", "clip"), ("classes", "names.txt"), ("templates", "templates.txt"),
    ) for part in (f"--verifiers.zero_shot.{key}", value)]  # fmt: skip
    assert search("--guide", "zero_shot", *more, "--report", "judge", "--output", "run") == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"zero_shot/classes/names.txt", "zero_shot/templates/templates.txt"} <= set(noted)
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        picture = embedding(model, work / "run" / "images" / f"found_{index:04d}.png")
        texts = [words(model, folder / "clip", one.format(names[int(row["prompt"])]))
                 for one in templates]  # fmt: skip
        named = np.mean([text / np.linalg.norm(text) for text in texts], axis=0)
        cosine = picture @ named / np.linalg.norm(picture) / np.linalg.norm(named)
        np.testing.assert_allclose(row["scores"]["zero_shot"]["found"], cosine, atol=2e-5)


def test_a_sample_is_likened_to_an_early_estimate_of_it(work, capsys):
    given = ["--verifiers.self_supervised.weights", "clip", "--report", "brightness"]
    assert search("--guide", "self_supervised", *given, "--output", "run") == 0
    rows = [json.loads(line) for line in (work / "run" / "records.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["cost"]["decodes"] == 2 * row["cost"]["verifier_calls"]
        assert -1 <= row["scores"]["self_supervised"]["plain"] < 1
    assert cli.main(["replay", "run"]) == 0
    assert "3 of 3 images identical" in capsys.readouterr().out
    far = ["--verifiers.self_supervised.level", "20", "--output", "far"]
    assert search("--guide", "self_supervised", *given, *far) == 0
    assert (work / "run" / "records.jsonl").read_text() != (work / "far/records.jsonl").read_text()


def test_a_run_finds_and_knows_its_verifiers_weights_from_anywhere(work, monkeypatch, capsys):
    assert search("--guide", "clip_score", *CLIP, "--report", "brightness", "--output", "run") == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"clip_score/weights/model.safetensors", "clip_score/weights/vocab.json"} <= set(noted)
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert cli.main(["replay", "../run"]) == 0
    assert "3 of 3 images identical" in capsys.readouterr().out


def test_files_of_one_name_are_told_apart(work, capsys):
    """Kills: a run that notes one of two files of the same name, and goes on with another one."""
    for folder, lines in (("one", [f"the {name}" for name in "abcdefghij"]), ("two", ["a {}"])):
        (work / folder).mkdir()
        (work / folder / "list.txt").write_text("\n".join(lines))
    more = ["--verifiers.zero_shot.weights", "clip", "--report", "brightness"]
    more += ["--verifiers.zero_shot.classes", "one/list.txt"]
    more += ["--verifiers.zero_shot.templates", "two/list.txt"]
    assert search("--guide", "zero_shot", *more, "--output", "run") == 0
    noted = json.loads((work / "run" / "versions.json").read_text())["files"]
    assert {"zero_shot/classes/list.txt", "zero_shot/templates/list.txt"} <= set(noted)
    (work / "one" / "list.txt").write_text("\n".join("ABCDEFGHIJ"))
    cli.main(["replay", "run"])
    assert "zero_shot/classes/list.txt is not what it was" in capsys.readouterr().out


def test_the_gradient_goes_through_the_path_of_floats(work, capsys):
    more = ["--guide", "clip_score", *CLIP, "--report", "brightness", "--searcher", "gradient"]
    few = ["--schedule.num_steps", "3", "--searcher.iterations", "1", "--prompts", "3", "--quiet"]
    assert cli.main(["search", *more, *few, "--output", "run"]) == 2
    assert "clip_score" in capsys.readouterr().err
    through = ["--verifiers.clip_score.path", "float", "--verifiers.clip_score.remat", "true"]
    assert cli.main(["search", *more, *few, *through, "--output", "run"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--guide", "clip_score"], "clip_score comes without weights: give those of openai/clip"),
        (
            ["--guide", "clip_score", "--verifiers.clip_score.weights", "some/where/else"],
            "there is no file or folder some/where/else",
        ),
        (
            ["--guide", "clip_score", "--verifiers.clip_score.weights", "head.pth"],
            "head.pth/config.json",
        ),
        (["--guide", "aesthetic", *AESTHETIC[:2]], "aesthetic comes without its predictor"),
        (["--guide", "aesthetic", *AESTHETIC[:3], "clip"], "cannot read"),
        (["--guide", "dinov2_classifier"], "give those of facebook/dinov2-base-imagenet1k-1-layer"),
        (["--guide", "self_supervised"], "self_supervised comes without weights: give those of"),
        (
            ["--guide", "self_supervised", "--verifiers.self_supervised.level", "0"],
            "level is 0.0: it must lie in (0, inf)",
        ),
        (
            ["--guide", "zero_shot", "--verifiers.zero_shot.weights", "clip"],
            "zero_shot comes without classes: give a file of their names",
        ),
        (
            [
                "--guide",
                "zero_shot",
                "--verifiers.zero_shot.weights",
                "clip",
                "--verifiers.zero_shot.classes",
                "none.txt",
            ],
            "cannot read none.txt",
        ),
        (
            [
                "--guide",
                "zero_shot",
                "--verifiers.zero_shot.weights",
                "clip",
                "--verifiers.zero_shot.classes",
                "three.txt",
            ],
            "zero_shot knows 3 classes, but the prompt '3' is class 3, counted from 0",
        ),
        (
            [
                "--guide",
                "zero_shot",
                "--verifiers.zero_shot.weights",
                "clip",
                "--verifiers.zero_shot.classes",
                "twice.txt",
            ],
            "twice.txt: line 3 says 'a' again",
        ),
        (
            ["--guide", "siglip_score", "--verifiers.siglip_score.weights", "clip"],
            "clip: the config's ",
        ),
        (["--guide", "clip_score", "clip_score", *CLIP], "guide names clip_score twice"),
        (["--guide", "siglip_score"], "give those of google/siglip-so400m-patch14-384"),
        (["--guide", "image_reward"], "comes without weights: give those of ImageReward.pt"),
        (
            ["--guide", "image_reward", "--verifiers.image_reward.weights", "head.pth"],
            "image_reward comes without a vocabulary: give the folder or id of one",
        ),
        (
            [
                *("--guide", "image_reward", "--verifiers.image_reward.weights", "head.pth"),
                *("--verifiers.image_reward.tokenizer", "clip"),
            ],
            "clip/vocab.txt: no such file",
        ),
        (["--guide", "hps"], "hps comes without weights: give those of HPS_v2.1_compressed.pt"),
        (
            ["--guide", "hps", "--verifiers.hps.weights", "head.pth"],
            "hps comes without a vocabulary: give the folder or id of one",
        ),
        (
            [
                *("--guide", "hps", "--verifiers.hps.weights", "head.pth"),
                *("--verifiers.hps.tokenizer", "clip"),
            ],
            "head.pth as weights: it has no entry 'state_dict'",
        ),
        (["--guide", "pick_score"], "give those of yuvalkirstain/PickScore_v1"),
        (
            [
                *("--guide", "pick_score", "--verifiers.pick_score.weights", "clip"),
                *("--verifiers.pick_score.tokenizer", "nowhere"),
            ],
            "there is no file or folder nowhere",
        ),
        (["--guide", "adm_classifier"], "adm_classifier comes without weights"),
    ],
)
def test_bad_input_is_one_line(work, capsys, more, message):
    assert search(*more) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not (work / "runs").exists()
