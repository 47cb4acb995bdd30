"""The launch scripts: what they would run, and what they refuse."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "launch" / "local.sh"


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_dry_run_prints_the_commands(tmp_path):
    venv = tmp_path / "venv"
    done = launch("--dry-run", "search", "--seed", "3", EXTRA="cuda", VENV=str(venv))
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == f"+ python3 -m venv {venv}"
    assert lines[1].endswith("[cuda]")
    assert lines[2] == f"+ {venv}/bin/jaxsearch search --seed 3"
    assert not venv.exists()


def test_bad_input_is_one_line():
    for done in (launch(), launch("search", EXTRA="rocm")):
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
