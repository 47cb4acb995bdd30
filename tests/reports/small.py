"""Runs and sweeps that are small enough for every test of reports."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

RUN = [
    "--schedule.num_steps", "6", "--searcher", "beam", "--searcher.candidates", "2",
    "--prompts", "3", "5", "3", "--seed", "1", "--quiet",
]  # fmt: skip
EVIL = "<script>hacked = 1</script>\"'><img src=x onerror='hacked = 1'></title>&amp;{{ 7 * 7 }}"
"""A prompt that would like to be more than text."""


def renamed(run: Path, prompts: list[str]) -> None:
    """Has a run say that its prompts were others."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "prompts": prompts}))
    lines = map(json.loads, (run / "records.jsonl").read_text().splitlines())
    texts = [
        json.dumps({**line, "prompt": prompt}) for line, prompt in zip(lines, prompts, strict=True)
    ]
    (run / "records.jsonl").write_text("\n".join(texts) + "\n")


def multiplied(run: Path, num: int) -> None:
    """Has a run say that it had `num` prompts: those that it has, again and again."""
    records = list(map(json.loads, (run / "records.jsonl").read_text().splitlines()))
    pictures = {path.name: path.read_bytes() for path in (run / "images").iterdir()}
    many = []
    for place in range(num):
        one = json.loads(json.dumps(records[place % len(records)]))
        for number, entry in enumerate(one["scores"].values()):
            entry["found"] = entry["plain"] + (place * 7919 % num - 20 + number) / 8
        many.append({**one, "id": place, "prompt": f"prompt {place}"})
        for kind in ("plain", "found"):
            name = f"{kind}_{place % len(records):04d}.png"
            (run / "images" / f"{kind}_{place:04d}.png").write_bytes(pictures[name])
    (run / "records.jsonl").write_text("\n".join(map(json.dumps, many)) + "\n")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["prompts"] = [one["prompt"] for one in many]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
