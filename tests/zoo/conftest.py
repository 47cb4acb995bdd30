"""What tests of folders of checkpoints begin with."""

from __future__ import annotations

import pytest

from jaxsearch import cli


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    return tmp_path
