"""A run and a sweep, made once; each test gets copies of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxsearch import cli
from tests.reports.small import RUN
from tests.sweeps.small import written


@pytest.fixture(scope="session", autouse=True)
def _cache() -> Iterator[None]:
    """Programs go where those of all tests are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_use_compilation_cache", lambda folder: None)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["search", *RUN, "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    file = written(folder / "sweep.yaml", keep=["recipes", "images", "curves"])
    assert cli.main(["sweep", str(file), "--output", str(folder / "sweep"), "--quiet"]) == 0
    return folder / "sweep"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def sweep(finished_sweep: Path, tmp_path: Path) -> Path:
    """The folder of a finished sweep."""
    return Path(shutil.copytree(finished_sweep, tmp_path / "sweep"))


@pytest.fixture(scope="session")
def reported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole report of a run, decisions and all."""
    path = tmp_path_factory.mktemp("reports") / "report.html"
    assert cli.main(["report", str(finished), "--output", str(path), "--paths", "2"]) == 0
    return path
