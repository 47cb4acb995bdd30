"""Bits that hang on how programs are fused, compared in programs compiled as users' are.

`conftest.py` has tests compiled quickly. There a loop of one round may round its sums otherwise
than a loop of many does, which it must not where results are promised to be the same bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import AS_USERS_COMPILE

CHUNKS = "tests/test_laws.py::test_chunks_give_the_same_bits_and_can_be_taken_up_again"
TESTS = [
    f"{CHUNKS}[gradient-heun_edm]",
    "tests/runs/test_checkpoint.py::test_the_search_goes_on_to_the_same_end",
    "tests/parallel/test_device_bits.py::test_devices_find_the_same_bits",
]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: Path(test.split("::")[0]).stem)
def test_bits_are_the_same_in_chunks_and_on_more_devices(test: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test],
        env={**environment, "XLA_FLAGS": "", AS_USERS_COMPILE: "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("."), "it may not be skipped"
