"""One HTML file that holds all it shows: it asks nothing of any network, and can ask nothing."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jaxsearch import __version__
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import write_atomic

_GENERATOR = "jaxsearch report"
_HEAD_BYTES = 2048  # of a page, in which its generator is named
_PLUS_MINUS = "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"


class Column(NamedTuple):
    """A column of a table that can be sorted and filtered."""

    name: str
    kind: str  # "text", "number", "gain" (a number with its sign) or "picture"
    group: str = ""  # a heading over it and its neighbours
    decimals: int = 0


class Table(NamedTuple):
    """A table that the page makes of its data, some rows at a time."""

    name: str  # its id
    caption: str
    columns: tuple[Column, ...]  # the first one of kind "text" names the row
    rows: list[list[Any]]  # [rows, columns]; None where nothing is known

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over the columns, and how many each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group and column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    @property
    def row_name(self) -> str:
        """What a row is."""
        return next(column.name for column in self.columns if column.kind == "text")

    @property
    def has_pictures(self) -> bool:
        """Whether a column holds any."""
        return any(column.kind == "picture" for column in self.columns)

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"columns": [column._asdict() for column in self.columns], "rows": self.rows}


def number_text(value: float | None, decimals: int = 3) -> str:
    """A number for people."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:,.{decimals}f}"


def count_text(value: float) -> str:
    """A count, or a mean of some."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def interval_text(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean and half its interval, where there is one."""
    if low is None or high is None or not math.isfinite(high - low):
        return number_text(mean)
    return f"{number_text(mean)}{_PLUS_MINUS}{number_text((high - low) / 2)}"


def download(text: str) -> str:
    """A text as an address from which a browser saves it."""
    return f"data:text/plain;base64,{base64.b64encode(text.encode()).decode('ascii')}"


def render(template: str, title: str, **content: Any) -> str:
    """A page.

    Args:
        template: of this package.
        title: of the page.
        content: that the template names. All texts are escaped.
    """
    environment = Environment(
        loader=PackageLoader("jaxsearch.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_text,
        "count": count_text,
        "download": download,
    }
    environment.globals["interval"] = interval_text
    folder = resources.files("jaxsearch.reports") / "templates"
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    # The browser runs this very script and no other, whatever stands in a prompt.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return environment.get_template(template).render(
        title=title,
        generator=_GENERATOR,
        version=__version__,
        policy=policy,
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        **content,
    )


def check_place(path: Path) -> None:
    """Refuses to write over what is no report.

    Raises:
        UserError: if something else is there.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file, such as {path / 'report.html'}")
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        reason = (error.strerror or "no access").lower()
        raise UserError(f"cannot read {path}: {reason}: choose another --output") from error
    if _GENERATOR.encode() not in head:
        raise UserError(f"{path} is there and no report of jaxsearch: choose another --output")


def write_page(path: Path, page: str) -> None:
    """Writes a page, over an older one if there is one.

    Raises:
        UserError: if something else is there.
    """
    check_place(path)
    write_atomic(path, page)
