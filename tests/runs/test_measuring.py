"""The command `metrics`: what it reads, what it compares, and what it says of bad input."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxsearch.verifiers.inception as inception_module
from jaxsearch import cli
from jaxsearch.metrics import inception_score, precision_recall
from jaxsearch.zoo.digits import load
from jaxsearch.zoo.digits.data import splits
from tests.metrics.populations import without_covariances
from tests.models.test_inception import NARROW, Reference

FEATURES = jax.jit(load.network("judge", "features"))
SEARCH = [
    "--searcher", "best_of_n", "--searcher.candidates", "2", "--schedule.num_steps", "3",
    "--guide", "brightness", "--report", "--model.enlarge", "1", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_programs(monkeypatch):
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)


def measured(*arguments: object) -> dict:
    """The figures that the command writes."""
    words = [str(word) for word in arguments]
    if "--output" not in words:
        words += ["--output", str(Path(words[0]).parent / "figures.json")]
    assert cli.main(["metrics", *words, "--quiet"]) == 0
    return json.loads(Path(words[words.index("--output") + 1]).read_text())


def levels(seed: int, num: int, size: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, channels), np.uint8)


def judged(pixels: np.ndarray) -> np.ndarray:
    features = FEATURES(load.weights("judge"), jnp.asarray(pixels, jnp.float32) / 255)
    return np.asarray(features)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as pictures and as ADM's samples."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "pictures" / "more").mkdir(parents=True)
    pixels = levels(0, 70)
    for index, one in enumerate(pixels):
        where = "pictures/more" if index > 40 else "pictures"
        Image.fromarray(one).save(folder / where / f"{index:03d}.png")
    np.savez(folder / "samples.npz", pixels, np.arange(70) % 7)
    np.savez(folder / "other.npz", arr_0=levels(1, 90) // 2)
    return folder


def test_folders_and_arrays_are_the_same_images(folder: Path):
    """Kills: images that are lost between two reads; a reference that is taken for the images."""
    reference = folder / "other.npz"
    arguments = ("--features", "digits", "--batch", "32")
    one = measured(folder / "samples.npz", "--reference", reference, *arguments)
    two = measured(folder / "pictures", "--reference", reference, *arguments, "--devices", "4")
    figures, same = one["populations"]["samples"], two["populations"]["pictures"]
    assert figures.pop("prompt_diversity") > 0  # by the labels of arr_1
    assert figures == pytest.approx(same, rel=1e-4)
    first, second = judged(levels(0, 70)), judged(levels(1, 90) // 2)
    wanted = without_covariances(first, second)
    np.testing.assert_allclose(figures["frechet_distance"], wanted, rtol=1e-4)
    found = (figures["precision"], figures["recall"])
    assert found == pytest.approx(precision_recall(second, first), abs=0.02)
    assert one["reference"] == {"name": str(reference), "number": 90}


def test_a_run_beside_real_digits(tmp_path: Path, capsys):
    run = tmp_path / "run"
    words = [*SEARCH, "--prompts", "3", "5", "--num-prompts", "24", "--output", str(run)]
    assert cli.main(["search", *words]) == 0
    capsys.readouterr()
    assert cli.main(["metrics", str(run), "--reference", "digits"]) == 0
    table = capsys.readouterr().out
    figures = json.loads((run / "metrics.json").read_text())["populations"]
    assert list(figures) == ["found", "plain", "real"]
    for word in ("digits features", "Frechet distance", "recall", "360 images", "metrics.json"):
        assert word in table
    assert figures["real"]["number"] == 24  # as many as there are found ones
    assert figures["real"]["frechet_distance"] < figures["plain"]["frechet_distance"]
    parts = splits()
    both = [(part.pixels + 1) / 2 for part in (parts.held_out, parts.classifier)]
    rounded = [np.floor(x * 255 + 0.5).astype(np.uint8) for x in both]
    wanted = without_covariances(judged(rounded[0]), judged(rounded[1][:24]))
    np.testing.assert_allclose(figures["real"]["frechet_distance"], wanted, rtol=1e-3)
    assert figures["plain"]["prompt_diversity"] > 0
    assert "prompt_diversity" not in figures["real"]


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory):
    """A narrow Inception in the published form, and what it says of images."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    reference = Reference(NARROW.narrower, NARROW.num_classes)
    reference(np.zeros((2, 79, 79, 3), np.float32))
    torch.save(reference.weights, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_module, "CONFIG", NARROW)
        patch.setattr(inception_module, "SIDE", 79)
        apply, params = inception_module.inception_outputs(weights=str(path))
        yield (
            path,
            lambda pixels: jax.device_get(
                jax.jit(apply)(params, jnp.asarray(pixels, jnp.float32) / 255)
            ),
        )


def test_references_of_adm_and_of_pytorch_fid(folder: Path, tmp_path: Path, inception):
    """Statistics of a file count, though there are images of it too: of ADM's they are fewer.

    Kills: statistics made of `arr_0`; `mu` for `mu_s`.
    """
    weights, says = inception
    whole, few = says(levels(2, 80) // 3), levels(3, 30) // 2
    stated = {}
    for end, features in (("", whole.features), ("_s", whole.spatial)):
        stated[f"mu{end}"] = features.mean(0)
        stated[f"sigma{end}"] = np.cov(features.T)
    np.savez(tmp_path / "adm.npz", arr_0=few, **stated)
    np.savez(tmp_path / "fid.npz", mu=stated["mu"], sigma=stated["sigma"])
    arguments = ("--features", "inception", "--weights", weights)
    samples = folder / "samples.npz"
    adm = measured(samples, "--reference", tmp_path / "adm.npz", *arguments)
    fid = measured(samples, "--reference", tmp_path / "fid.npz", *arguments)
    seen = says(levels(0, 70))
    found, less = adm["populations"]["samples"], fid["populations"]["samples"]
    wanted = without_covariances(seen.features, whole.features)
    np.testing.assert_allclose(found["frechet_distance"], wanted, rtol=1e-3)
    np.testing.assert_allclose(less["frechet_distance"], wanted, rtol=1e-3)
    wanted = without_covariances(seen.spatial, whole.spatial)
    np.testing.assert_allclose(found["spatial_frechet_distance"], wanted, rtol=1e-2)
    assert less["spatial_frechet_distance"] is None
    wanted = precision_recall(says(few).features, seen.features)
    assert (found["precision"], found["recall"]) == pytest.approx(wanted, abs=0.04)
    assert less["recall"] is None
    wanted = inception_score(seen.logits, splits=1).mean
    assert found["inception_score"] == less["inception_score"] == pytest.approx(wanted)
    assert adm["reference"]["number"] == 30
    assert found["kernel_distance"] is None  # random weights give features of 1e6


def test_frechet_alone_keeps_no_features(folder: Path):
    arguments = ("--features", "digits", "--metrics", "frechet")
    found = measured(folder / "samples.npz", "--reference", folder / "other.npz", *arguments)
    assert set(found["populations"]["samples"]) == {"number", "frechet_distance"}


def damaged(path: Path) -> Path:
    """The header of so many images, and fewer images."""
    content = io.BytesIO()
    np.save(content, levels(0, 9))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", content.getvalue()[:-100])
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "there are no images none"),
        (
            ["{f}/samples.npz", "--features", "digits", "--reference", "none"],
            "there is no reference none: give a run,",
        ),
        (["{f}/samples.npz"], "features are missing: say whose by --features"),
        (["{f}/samples.npz", "--features", "inception"], "inception comes without weights"),
        (["{f}/samples.npz", "--features", "encoder"], "encoder comes without weights"),
        (
            ["{f}/samples.npz", "--features", "digits", "--weights", "x"],
            "--weights is given, but digits has no such setting",
        ),
        (["{f}/samples.npz", "--features", "x"], "invalid choice: 'x'"),
        (["{f}/samples.npz", "--batch", "0"], "batch is 0: it must be a whole number from 1"),
        (["{f}/text.npz", "--features", "digits"], "text.npz: it is missing, damaged or no .npz"),
        (["{f}/short.npz", "--features", "digits"], "arr_0 ends before its last image"),
        (["{f}/floats.npz", "--features", "digits"], "it must be images [n,h,w,c] uint8"),
        (["{f}/empty.npz", "--features", "digits"], "holds x: it must hold arr_0 (images), or mu"),
        (["{f}/nothing", "--features", "digits"], "nothing has no pictures"),
        (["{f}/samples.npz", "--features", "scenes"], "48x48 pixels in colour, not 16x16 of 3"),
        (["{f}/samples.npz", "--features", "digits", "--output", "{f}"], "is a folder: give --out"),
        (["{f}/sizes", "--features", "digits"], "b.png has 4x6 pixels, "),
        (["{f}/broken", "--features", "digits"], "a.png: it is missing or damaged"),
        (["{f}/odd.npz", "--features", "digits"], "whose sides are multiples of 8, not 6x6"),
        (
            ["{f}/samples.npz", "--features", "digits", "--subset-size", "80"],
            "subset_size is 80, but there are 70 images",
        ),
        (
            ["{f}/samples.npz", "--features", "digits", "--reference", "{f}/wide.npz"],
            "there are 64 features on one side and 3 on the other",
        ),
        (
            ["{f}/samples.npz", "--features", "digits", "--reference", "{f}/askew.npz"],
            "has a mean of the shape (3,) and a covariance of the shape (2, 2)",
        ),
        (["{f}/samples.npz", "--features", "digits", "--devices", "99"], "devices is 99"),
    ],
)
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, capsys, arguments, message):
    for name in ("samples.npz", "other.npz"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "text.npz").write_text("not an archive")
    damaged(tmp_path / "short.npz")
    np.savez(tmp_path / "floats.npz", levels(0, 4) / 255)
    np.savez(tmp_path / "empty.npz", x=np.zeros(3))
    np.savez(tmp_path / "odd.npz", levels(0, 8, size=6))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "askew.npz", mu=np.zeros(3), sigma=np.eye(2))
    for name in ("nothing", "sizes", "broken"):
        (tmp_path / name).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "sizes" / "a.png")
    Image.new("L", (4, 6)).save(tmp_path / "sizes" / "b.png")
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    words = [word.replace("{f}", str(tmp_path)) for word in arguments]
    if "--reference" not in words:
        words += ["--reference", str(tmp_path / "other.npz")]
    if "--output" not in words:
        words += ["--output", str(tmp_path / "figures.json")]
    assert cli.main(["metrics", *words, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "figures.json").exists()


def test_help_names_what_there_is(capsys):
    assert cli.main(["metrics", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in ("--reference", "inception, encoder, digits, scenes", "digits or scenes", "recall"):
        assert word in said
