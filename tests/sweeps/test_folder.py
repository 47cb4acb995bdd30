"""Who may work in a sweep's folder, and with what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jaxsearch.runs.errors import UserError
from jaxsearch.sweeps.folder import SweepFolder, is_at_work, manifest_of, read_manifest, working
from jaxsearch.sweeps.grid import read_sweep
from tests.sweeps.small import BASE, GRID, written


def manifest(tmp_path: Path, **entries):
    return manifest_of(read_sweep(written(tmp_path / "sweep.yaml", **entries)))


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    folder, one = SweepFolder(tmp_path / "f"), manifest(tmp_path)
    with working(folder, one, 0, 1):
        assert read_manifest(folder) == one
    folder.manifest.write_text('{"units": [["a", 7, 0, 1, 1]], "points": [], "keep": []}')
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        read_manifest(folder)


def test_processes_of_one_sweep_work_together(tmp_path: Path) -> None:
    """Kills: a lock that is let go too early, or held on to too long."""
    folder, one = SweepFolder(tmp_path / "f"), manifest(tmp_path)
    other = manifest(tmp_path, grid={**GRID, "seed": [0, 1, 2]})
    with working(folder, one, 1, 2):
        with working(folder, one, 0, 2):
            assert is_at_work(folder)
            for share, message in (((1, 2), "process 1 of this sweep"), ((1, 3), "another sweep")):
                with pytest.raises(UserError, match=f"is in use: {message}"):
                    working(folder, one, *share).__enter__()
            with pytest.raises(UserError, match="is in use: another sweep"):
                working(folder, other, 0, 2).__enter__()
        with working(folder, one, 0, 2):  # it was killed and comes again
            pass
    assert not is_at_work(folder)
    first, second = working(folder, one, 0, 2), working(folder, one, 1, 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the one that came later goes on alone
    with pytest.raises(UserError, match="is in use: another sweep"):
        working(folder, other, 0, 1).__enter__()
    second.__exit__(None, None, None)
    with working(folder, other, 0, 1):  # more seeds: the sweep goes on
        assert len(read_manifest(folder).units) == len(other.units)


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    folder, one = SweepFolder(tmp_path / "f"), manifest(tmp_path)
    with working(folder, one, 0, 1):
        pass
    before = folder.manifest.read_bytes()
    fewer = manifest(tmp_path, grid={**GRID, "seed": [0]})
    with pytest.raises(UserError, match="holds 4 units that the file does not ask for any more"):
        working(folder, fewer, 0, 1).__enter__()
    with pytest.raises(UserError, match="holds records that keep recipes, images"):
        working(folder, manifest(tmp_path, keep=[]), 0, 1).__enter__()
    assert folder.manifest.read_bytes() == before
    with working(folder, manifest(tmp_path, prompts=BASE["prompts"]), 0, 1):
        pass


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty: choose another --output"):
        working(SweepFolder(tmp_path / "home"), manifest(tmp_path), 0, 1).__enter__()
    assert os.listdir(tmp_path / "home") == ["letter.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file as the folder of a sweep"):
        working(SweepFolder(tmp_path / "file"), manifest(tmp_path), 0, 1).__enter__()
    with pytest.raises(UserError, match=r"no folder of a sweep: it has no manifest.json"):
        read_manifest(SweepFolder(tmp_path / "home"))
