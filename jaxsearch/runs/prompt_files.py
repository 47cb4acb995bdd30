"""Files of prompts: a line each, or tables and records that say more of each prompt."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxsearch.runs.errors import UserError, unknown

COLUMNS = ("prompt", "prompts")
"""What the column of the prompts is called, in small letters or others, unless it is named."""

_MOST_VALUES = 40  # that a message lists


class Prompt(NamedTuple):
    """What is asked for, and the row of a file that said so, where it said more."""

    text: str
    metadata: dict[str, Any] | None = None


class Asked(NamedTuple):
    """What is asked of a file of prompts."""

    path: Path
    column: str | None = None  # of the prompts
    chosen: tuple[str, str] | None = None  # a column, and the value that it has in the rows wanted


class _Row(NamedTuple):
    where: str  # in the file
    value: Any  # a mapping by column, or a text


def read_prompts(name: str) -> list[Prompt]:
    """The prompts of a file.

    The ending says what it is: `.csv`, `.tsv` and `.jsonl` have a row for each prompt, `.json` a
    list of texts or of such rows, any other file a text on each line. Spaces around prompts go, and
    so do lines without any.

    Args:
        name: `FILE`, and for rows perhaps `:COLUMN`, where the prompts are, and `:COLUMN=VALUE`,
            the rows to take: `DrawBench.csv:Category=Colors`, `a.csv:caption:split=test`.

    Raises:
        UserError: if the file cannot be read, or it is not plain which prompts it holds.
    """
    asked = _asked(name)
    text = _text(asked.path)
    read = _READERS.get(asked.path.suffix.lower())
    if read is None:
        return _plain(text, asked.path)
    rows = list(read(text, asked.path))
    if not rows:
        raise _none(asked.path)
    return [_prompt(row, asked) for row in (_selected(rows, asked) if asked.chosen else rows)]


def check_metadata(metadata: Any, where: str) -> None:
    """Refuses what records cannot hold as what is known of a prompt.

    Raises:
        UserError: if it is no mapping by texts, or holds anything that JSON has no word for.
    """
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise UserError(f"{where}: metadata is {metadata!r}: write '{{name: value, ...}}'")
    try:
        json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: metadata holds what is not JSON: {error}") from error


def _asked(name: str) -> Asked:
    match = re.fullmatch(r"(.+?\.(?:csv|tsv|jsonl?)):(.+)", name, re.IGNORECASE | re.DOTALL)
    if match is None or Path(name).is_file():
        return Asked(Path(name))
    path, rest = match.groups()
    before, equals, value = rest.partition("=")
    if not equals:
        return Asked(Path(path), rest)
    column, _, key = before.rpartition(":")
    return Asked(Path(path), column or None, (key, value))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise UserError(f"cannot read the file of prompts {path}: {reason}") from error
    try:
        return content.decode("utf-8-sig")  # spreadsheets begin a file with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read the file of prompts {path}: line {line} is not text in UTF-8: save the "
            "file in that encoding"
        ) from error


def _plain(text: str, path: Path) -> list[Prompt]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if "\t" in line:
            raise UserError(
                f"{path}: line {number} has a tab: name the file .tsv if it has columns, or put a "
                "space there"
            )
        if line:
            found.append(Prompt(line))
    if not found:
        raise _none(path)
    return found


def _none(path: Path) -> UserError:
    return UserError(f"{path} holds no prompts")


# ---------------------------------------------------------------------------------------- the forms


def _comma_separated(text: str, path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begin = 1

    def rows() -> Iterator[tuple[int, list[str]]]:
        nonlocal begin
        for row in reader:
            yield begin, row
            begin = reader.line_num + 1

    try:
        yield from _table(rows(), path)
    except csv.Error as error:
        raise UserError(
            f"{path}: the row at line {begin} is no CSV ({error}): put a field with commas or "
            "quotation marks in quotation marks, and write those in it twice"
        ) from error


def _tab_separated(text: str, path: Path) -> Iterator[_Row]:
    # Published tables of prompts have fields that begin with a quotation mark, as a character.
    lines = (line.removesuffix("\r").split("\t") for line in text.split("\n"))
    return _table(enumerate(lines, 1), path)


def _table(rows: Iterator[tuple[int, list[str]]], path: Path) -> Iterator[_Row]:
    """Rows by their columns: the first row that is not empty names them."""
    header: list[str] | None = None
    for number, row in rows:
        if not any(field.strip() for field in row):
            continue
        if header is None:
            header = [name.strip() for name in row]
            named = [name for name in header if name]
            if twice := [name for name in named if named.count(name) > 1]:
                raise UserError(
                    f"{path} has two columns {twice[0]!r}: name each by a name of its own"
                )
            continue
        if len(row) != len(header):
            raise UserError(
                f"{path}: the row at line {number} has {len(row)} fields, but there are "
                f"{len(header)} columns: give it as many"
            )
        # A column without a name is the number of a row, as pandas writes it.
        found = {name: field for name, field in zip(header, row, strict=True) if name}
        yield _Row(f"line {number}", found)


def _json_list(text: str, path: Path) -> Iterator[_Row]:
    values = _parsed(text, path, "", "; a file with a record on each line is named .jsonl")
    if not isinstance(values, list):
        raise UserError(
            f'{path} holds no list: write ["a prompt", ...] or [{{"prompt": ..., ...}}, ...]'
        )
    for number, value in enumerate(values, 1):
        yield _Row(f"entry {number}", value)


def _json_lines(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _Row(f"line {number}", _parsed(line, path, f"line {number}", ""))


def _parsed(text: str, path: Path, where: str, hint: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = where or f"line {error.lineno}"
        raise UserError(f"{path}: {where} is no JSON: {error.msg.lower()}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {where or 'it'} is no JSON: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_READERS: dict[str, Callable[[str, Path], Iterator[_Row]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".json": _json_list,
    ".jsonl": _json_lines,
}


# ----------------------------------------------------------------------------------- from the rows


def _prompt(row: _Row, asked: Asked) -> Prompt:
    where = f"{asked.path}: {row.where}"
    if isinstance(row.value, dict):
        column = _column(row.value, asked)
        value = row.value[column]
    elif asked.column is not None:
        raise UserError(f"{where} has no column {asked.column!r}: it is no record")
    else:
        column, value = "", row.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where} has the prompt {value!r}: it must be a text")
    text = str(value).strip()
    if not text:
        raise UserError(f"{where} has an empty prompt: fill it in, or remove it")
    if asked.path.suffix.lower() == ".tsv" and len(text) > 1 and text[0] == text[-1] == '"':
        raise UserError(
            f"{where} has a prompt in quotation marks, which a .tsv takes for part of it: remove "
            "them, or save the file as .csv"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has a prompt with half a character: {text!r}") from error
    if not isinstance(row.value, dict) or len(row.value) == 1:
        return Prompt(text)
    check_metadata(row.value, where)
    return Prompt(text, row.value)


def _column(record: Mapping[str, Any], asked: Asked) -> str:
    """The column of a record that holds the prompt."""
    if asked.column is not None:
        if asked.column not in record:
            raise unknown(f"{asked.path} has no column", asked.column, record)
        return asked.column
    found = [name for name in record if name.lower() in COLUMNS]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(repr, found or record))
    what = "several columns of prompts" if found else "no column 'prompt'"
    example = next(iter(found or record), "COLUMN")
    raise UserError(
        f"{asked.path} has {what} ({listed}): say which it is, such as '@{asked.path}:{example}'"
    )


def _selected(rows: list[_Row], asked: Asked) -> list[_Row]:
    """The rows that have the value wanted."""
    assert asked.chosen is not None
    name, wanted = asked.chosen
    records = [row.value for row in rows if isinstance(row.value, dict)]
    if not any(name in record for record in records):
        known = {key for record in records for key in record}
        raise unknown(f"{asked.path} has no column", name, known)
    found = [
        row
        for row in rows
        if isinstance(row.value, dict) and name in row.value and _same(row.value[name], wanted)
    ]
    if not found:
        values = {_written(record[name]) for record in records if name in record}
        what = f"{asked.path} has no row whose {name} is"
        if len(values) > _MOST_VALUES:
            raise UserError(f"{what} {wanted!r}: there are {len(values)} others")
        raise unknown(what, wanted, values)
    return found


def _same(value: Any, wanted: str) -> bool:
    return _written(value) == wanted.strip()


def _written(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value)
