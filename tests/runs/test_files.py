"""Files are whole or not there; a folder has one owner."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jaxsearch.runs import files
from jaxsearch.runs.errors import UserError


def test_write_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    files.write_atomic(path, "one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    files.write_atomic(path, "old")

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "new and longer")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_nothing_is_visible_before_the_content_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file.txt", []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(path.exists()))
    files.write_atomic(path, "content")
    assert seen == [False]


def test_the_name_changes_hands_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace, seen = tmp_path / "file.txt", os.replace, []
    files.write_atomic(path, "old")

    def watched(source: str, target: Path) -> None:
        seen.append((path.read_text(), Path(source).read_text(), Path(source).parent))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    files.write_atomic(path, "new")
    assert seen == [("old", "new", tmp_path)]
    assert path.read_text() == "new"


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    leftover = tmp_path / "images" / ".found_0000.png.abc123.partial"
    leftover.write_bytes(b"half")
    kept = tmp_path / "images" / "found_0001.png"
    kept.write_bytes(b"whole")
    files.remove_partial(tmp_path)
    assert not leftover.exists()
    assert kept.exists()


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"score": float("nan")})
    assert os.listdir(tmp_path) == []
    files.write_json(tmp_path / "a.json", {"score": 0.1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"score": 0.1}


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with files.owned(tmp_path), pytest.raises(UserError, match="in use"), files.owned(tmp_path):
        pass
    with files.owned(tmp_path):
        pass
