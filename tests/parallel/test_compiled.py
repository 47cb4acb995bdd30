"""What a compiler says of a search, and what is read from a program's text."""

from __future__ import annotations

import os

import jax
import pytest

from jaxsearch import cli
from jaxsearch.core.search import search
from jaxsearch.parallel.compiled import collective_bytes, compiled_for, topology_devices
from jaxsearch.searchers import best_of_n
from tests import toys


@pytest.fixture(autouse=True)
def _cache(monkeypatch):
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)


TEXT = """
  %g.1 = u32[48,19]{1,0:T(2,128)S(1)} all-gather(%copy.801), channel_id=71, dimensions={0}
  %s.2 = f32[36,8]{1,0} slice(%all-gather.132), slice={[0:36], [0:8]}
  %r.3 = (s32[48]{0:T(128)}, f32[10]{0:T(128)}) all-reduce(%a, %b), to_apply=%add
  %b.4 = (f32[4]{0}, f32[32]{0}) all-gather-start(%x), dimensions={0}
  %d.5 = f32[32]{0} all-gather-done(%b.4)
  ROOT %p.6 = pred[7]{0} collective-permute(%y), source_target_pairs={{0,1}}
  %h.7 = bf16[5]{0} reduce-scatter(%z), dimensions={0}
"""


def test_collectives_of_a_text():
    """Kills: what merely reads a collective's result counted; both ends of one in two parts."""
    assert collective_bytes(TEXT) == 48 * 19 * 4 + (48 + 10) * 4 + 32 * 4 + 7 + 5 * 2


def test_a_search_on_more_devices():
    """Each has a part of the particles and all of the weights."""
    one = best_of_n(candidates=8)
    problem, prompts = toys.problem(toys.linear_solver()), toys.prompts(8)
    alone, shared = (compiled_for(jax.devices()[:num], one, problem, prompts) for num in (1, 8))
    assert (alone.devices, shared.devices) == (1, 8)
    assert alone.collectives == 0
    # Prompts divide evenly, so each device keeps its own from round to round.
    assert shared.temporaries < alone.temporaries
    assert shared.arguments == alone.arguments
    uneven = compiled_for(jax.devices()[:8], one, problem, toys.prompts(3))
    assert uneven.collectives > 0
    wanted = search.lower(jax.random.key(0), one, problem, prompts).compile().memory_analysis()
    assert alone.total >= wanted.temp_size_in_bytes > 0


@pytest.mark.parametrize("name", ["v9:4x4", "v5e", "v5e:16", "v5e:4x4; rm"])
def test_what_is_no_topology_is_refused(name):
    with pytest.raises(ValueError, match="take one such as v5e:4x4, of v4, v5e, v5p, v6e"):
        topology_devices(name)


def test_a_topology_without_its_compiler_is_refused(capsys):
    try:
        import libtpu  # noqa: F401
    except ImportError:
        assert cli.main(["plan", "--topology", "v5e:2x2"]) == 2
        assert "install the TPU's compiler by the extra 'tpu'" in capsys.readouterr().err
    else:
        devices = topology_devices("v5e:2x2")
        assert len(devices) == 4
        assert cli.main(["plan", "--topology", "v5e:2x2", "--rate", "1"]) == 0
        assert "4 chips of 16 GiB" in capsys.readouterr().out
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_time_at_a_rate(capsys):
    small = ["--schedule.num_steps", "3", "--searcher", "best_of_n", "--prompts", "1"]
    assert cli.main(["plan", *small, "--rate", "0.001"]) == 0
    said = capsys.readouterr().out
    operations = next(line for line in said.splitlines() if "floating-point" in line).split()
    assert operations[-1] == "M"
    seconds = float(operations[-2]) * 1e6 / 1e9
    (line,) = [line for line in said.splitlines() if line.startswith("time")]
    assert line.split()[1:3] == [f"{seconds:.3g}", "seconds"]
    assert line.endswith("at 0.001 TFLOP/s, as stated")
    assert cli.main(["plan", *small, "--measure"]) == 0
    assert "measured on this cpu" in capsys.readouterr().out
    assert cli.main(["plan", *small, "--rate", "0"]) == 2
    assert "rate is 0" in capsys.readouterr().err
    assert cli.main(["search", *small, "--rate", "1"]) == 2
    assert "unknown option '--rate'" in capsys.readouterr().err
