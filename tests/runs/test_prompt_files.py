"""Files of prompts: what each form holds, and every way in which it may be unclear."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jaxsearch.runs.arguments import parse, resolve_file
from jaxsearch.runs.config import Config
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.prompt_files import Prompt, read_prompts


def read(folder: Path, name: str, content: str | bytes, more: str = "") -> list[Prompt]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompts(f"{path}{more}")


def config_of(*argv: str) -> Config:
    return parse(argv, command="search", description="").config


def test_a_text_has_a_prompt_on_each_line(tmp_path: Path) -> None:
    """Kills: a byte order mark or a carriage return that becomes part of a prompt."""
    content = b"\xef\xbb\xbfa red cube\r\n\r\n  a cat, sleeping \n"
    for name in ("prompts.txt", "prompts", "prompts.list"):
        assert read(tmp_path, name, content) == [Prompt("a red cube"), Prompt("a cat, sleeping")]


def test_drawbench_is_a_csv_with_a_column_prompts(tmp_path: Path) -> None:
    """Kills: lines for rows; fields cut at quoted commas; doubled marks that stay double."""
    content = (
        "\ufeffPrompts,Category\r\n"
        "A red car.,Colors\r\n"
        '"A sign that says ""Hi, you"".",Text\r\n'
        "\r\n"
        '"two\nlines",Reddit\r\n'
    )
    found = read(tmp_path, "DrawBench.csv", content)
    assert [one.text for one in found] == [
        "A red car.",
        'A sign that says "Hi, you".',
        "two\nlines",
    ]
    assert found[0].metadata == {"Prompts": "A red car.", "Category": "Colors"}


def test_partiprompts_is_a_tsv_whose_quotation_marks_are_characters(tmp_path: Path) -> None:
    """Kills: a TSV read by the rules of CSV, which loses the marks around the first words."""
    content = (
        "Prompt\tCategory\tChallenge\tNote\n"
        '"G O" painted on a wall, in red\tIllustrations\tWriting & Symbols\t\n'
        ' a dog playing poker\tAnimals\tImagination\ta "Dogs Playing Poker"\n'
    )
    found = read(tmp_path, "PartiPrompts.tsv", content)
    assert [one.text for one in found] == ['"G O" painted on a wall, in red', "a dog playing poker"]
    assert found[1].metadata == {
        "Prompt": " a dog playing poker",
        "Category": "Animals",
        "Challenge": "Imagination",
        "Note": 'a "Dogs Playing Poker"',
    }


RECORDS = [
    {"tag": "counting", "include": [{"class": "cow", "count": 2}], "prompt": "two cows"},
    {"tag": "colors", "include": [{"class": "cup", "count": 1}], "prompt": "a red cup"},
]


def test_geneval_has_a_record_on_each_line(tmp_path: Path) -> None:
    """Kills: a record that is kept in part, or in another order of its entries."""
    lines = [json.dumps(record) for record in RECORDS]
    found = read(tmp_path, "evaluation_metadata.jsonl", "\n".join([lines[0], "", lines[1], ""]))
    assert [one.text for one in found] == ["two cows", "a red cup"]
    assert [json.dumps(one.metadata) for one in found] == lines
    # U+2028 ends no line of JSON.
    (one,) = read(tmp_path, "a.jsonl", '{"prompt": "a\u2028b", "n": 1}')
    assert one.text == "a\u2028b"


def test_json_is_a_list_of_texts_or_records(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", '["a cat", {"prompt": "a dog"}, 3]') == [
        Prompt("a cat"),
        Prompt("a dog"),
        Prompt("3"),
    ]
    found = read(tmp_path, "b.json", json.dumps(RECORDS, indent=2))
    assert [one.metadata for one in found] == RECORDS


def test_a_column_and_rows_are_chosen_behind_the_name(tmp_path: Path) -> None:
    """Kills: a column or a choice that is not honoured, or one taken for the other."""
    table = "id,caption,prompt,split\n0,c0,p0,test\n1,c1,p1,train\n2,c2,p2,test\n"

    def texts(more: str) -> list[str]:
        return [one.text for one in read(tmp_path, "a.csv", table, more)]

    assert texts("") == ["p0", "p1", "p2"]
    assert texts(":caption") == ["c0", "c1", "c2"]
    assert texts(":split=test") == ["p0", "p2"]
    assert texts(":caption:split=test") == ["c0", "c2"]
    lines = "\n".join(json.dumps({"prompt": f"p{n}", "n": n, "ok": n > 0}) for n in (0, 1, 2))
    assert [one.text for one in read(tmp_path, "a.jsonl", lines, ":n=1")] == ["p1"]
    assert [one.text for one in read(tmp_path, "a.jsonl", lines, ":ok=true")] == ["p1", "p2"]
    # A file that is called so is that file.
    assert read(tmp_path, "b.csv:split=test", "x, y") == [Prompt("x, y")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,Category\nx,y\n", "a.csv has no column 'prompt' ('name', 'Category'): say"),
        ("a.csv", "prompt,Prompts\nx,y\n", "has several columns of prompts ('prompt', 'Prompts')"),
        ("a.csv", "prompt,b,b\nx,y,z\n", "has two columns 'b'"),
        ("a.csv", "prompt,b\nx,y\n ,z\n", "line 3 has an empty prompt"),
        ("a.csv", "prompt,b\nx,y,z\n", "the row at line 2 has 3 fields, but there are 2 columns"),
        ("a.csv", 'prompt,b\nx,"1\n2"\n"y,z\n\n', "the row at line 4 is no CSV"),
        ("a.csv", 'prompt,b\n"x" y,z\n', "the row at line 2 is no CSV"),
        ("a.csv", '"prompt,b\nx,y\n', "the row at line 1 is no CSV"),
        ("a.csv", "prompt,b\n", "a.csv holds no prompts"),
        ("a.csv", b"prompt,b\nx,y\n\xe9,z\n", "line 3 is not text in UTF-8: save"),
        ("a.txt", " \n\n", "a.txt holds no prompts"),
        ("a.txt", "a cat".encode("utf-16"), "line 1 is not text in UTF-8"),
        ("a.txt", "a cat\na\tb\n", "line 2 has a tab: name the file .tsv"),
        ("a.tsv", "prompt\tb\nx\ty\nz\n", "the row at line 3 has 1 fields"),
        ("a.tsv", 'prompt\tb\n"a ""b"" c"\ty\n', "line 2 has a prompt in quotation marks"),
        ("a.json", '["x",\n "y"', "a.json: line 2 is no JSON"),
        ("a.json", '{"prompt": "x"}\n{"prompt": "y"}', "is named .jsonl"),
        ("a.json", '{"prompt": "x"}', "a.json holds no list"),
        ("a.json", "[[1]]", "entry 1 has the prompt [1]: it must be a text"),
        ("a.json", '["x", " "]', "entry 2 has an empty prompt"),
        ("a.json", "[]", "a.json holds no prompts"),
        ("a.json", "[" * 100_000, "a.json: it is no JSON"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y",}', "a.jsonl: line 2 is no JSON"),
        ("a.jsonl", '{"prompt": "x", "score": NaN}', "line 1 is no JSON: NaN is no number"),
        ("a.jsonl", '{"prompt": null}', "line 1 has the prompt None"),
        ("a.jsonl", '{"prompt": "\\ud800"}', "line 1 has a prompt with half a character"),
        ("a.jsonl", '{"prompt": "x", "b": "\\ud800"}', "line 1: metadata holds what is not JSON"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, name, content)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (":captoin", "has no column 'captoin': did you mean caption"),
        (":splt=test", "has no column 'splt': did you mean split"),
        (":split=tset", "has no row whose split is 'tset': did you mean test"),
        (":caption:split=x", "has no row whose split is 'x': there is test, train"),
        (":n=x", "has no row whose n is 'x': there are 50 others"),
    ],
)
def test_a_choice_that_is_not_there_is_named(tmp_path: Path, more: str, message: str) -> None:
    rows = [f"p{n},c{n},{'test' if n % 2 else 'train'},{n}" for n in range(50)]
    with pytest.raises(UserError) as error:
        read(tmp_path, "a.csv", "\n".join(["prompt,caption,split,n", *rows]), more)
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "file"), [("a.csv:b:c=d", "a.csv"), ("a.txt", "a.txt")])
def test_a_file_that_is_not_there_is_named(name: str, file: str) -> None:
    with pytest.raises(UserError) as error:
        config_of("--prompts", f"@{name}")
    assert str(error.value) == f"cannot read the file of prompts {file}: no such file or directory"


def test_a_list_of_texts_has_no_columns(tmp_path: Path) -> None:
    for more in (":caption", ":split=test"):
        with pytest.raises(UserError, match="has no column"):
            read(tmp_path, "a.json", '["x"]', more)


# ------------------------------------------------------------------------------------ in the config


def test_what_a_file_says_of_prompts_is_in_the_config(tmp_path: Path) -> None:
    """Kills: metadata beside the wrong prompts once those are repeated, or lost on the way back."""
    path = tmp_path / "a.csv"
    path.write_text("prompt,Category\n3,odd\n4,even\n")
    config = config_of("--prompts", "7", f"@{path}", "--num-prompts", "5")
    odd, even = {"prompt": "3", "Category": "odd"}, {"prompt": "4", "Category": "even"}
    assert config.prompts == ("7", "3", "4", "7", "3")
    assert config.metadata == (None, odd, even, None, odd)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert "&" not in config.to_yaml()
    assert resolve_file(tmp_path / "config.yaml").config == config


def test_prompts_alone_leave_the_config_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\n3\n5\n")
    (tmp_path / "a.txt").write_text("3\n5\n")
    configs = [config_of("--prompts", *given) for given in (["3", "5"], [f"@{tmp_path}/a.csv"],
                                                            [f"@{tmp_path}/a.txt"])]  # fmt: skip
    assert [config.metadata for config in configs] == [()] * 3
    assert len({config.to_yaml() for config in configs}) == 1
    assert "prompts: ['3', '5']\n" in configs[0].to_yaml()


def test_a_prompt_that_begins_as_a_file_does_is_a_prompt_in_a_config(tmp_path: Path) -> None:
    """Kills: a run that reads a file, or fails to, when it is taken up again."""
    config = dataclasses.replace(config_of(), prompts=("@home", "3"))
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert resolve_file(tmp_path / "config.yaml").config == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompts: [{prompt: 3, metdata: {a: 1}}]", "has no entry 'metdata': did you mean"),
        ("prompts: [{prompt: 3, metadata: 1}]", "metadata is 1: write"),
        ("prompts: [{prompt: 3, metadata: {a: .nan}}]", "metadata holds what is not JSON"),
        ("prompts: [{prompt: 3, metadata: {a: 2020-01-01}}]", "metadata holds what is not JSON"),
        ("prompts: [{prompt: [3]}]", "prompts holds [3]"),
    ],
)  # fmt: skip
def test_a_bad_prompt_of_a_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        config_of("--config", str(tmp_path / "c.yaml"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
