"""From the report's contents to one HTML page that needs nothing else, and to Markdown with its figures beside it.

Names, parameters and texts of runs may come from anyone who can write to the store. Jinja2 escapes all of them in the
page, the texts' Markdown is rendered without its HTML, links and images, pictures are encoded anew, and the page's own
policy forbids scripts and requests.
"""

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from trainers.report.contents import Chart, Contents, Picture
from trainers.report.figures import as_png, as_svg

PICTURES_LIMIT = 8_000_000
"""Bytes of pictures and charts in the page; what comes later is named but not shown."""

TEXT_LIMIT = 200_000
"""Characters of a text that are shown."""

HEADING_SHIFT = 4
"""A text's first heading stands below the page's, the chapter's, the run's and its own."""


def html_page(contents: Contents) -> str:
    """The page: styles and pictures inside, no script, no request."""
    left = PICTURES_LIMIT

    def source(shown: Chart | Picture) -> str | None:
        """A data URI, or None once the page is full."""
        nonlocal left
        kind, data = ("svg+xml", as_svg(shown.figure)) if isinstance(shown, Chart) else ("png", shown.data)
        left -= len(data)
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if left > 0 else None

    environment = _environment(autoescape=True)
    environment.globals |= {"source": source, "rendered": rendered}
    return environment.get_template("report.html.j2").render(contents=contents)


def markdown_page(contents: Contents, figures: str) -> tuple[str, dict[str, bytes]]:
    """(Markdown, {file name: PNG} of the figures that it expects in the folder `figures` beside it)."""
    files: dict[str, bytes] = {}

    def source(shown: Chart | Picture) -> str:
        data = as_png(shown.figure) if isinstance(shown, Chart) else shown.data
        name = file_name(shown.name)
        while files.setdefault(f"{name}.png", data) != data:  # names that differ in other letters only
            name += "_"
        return f"{figures}/{name}.png"

    environment = _environment(autoescape=False)
    environment.finalize = _markdown_text
    environment.globals |= {"source": source, "demoted": demoted}
    text = environment.get_template("report.md.j2").render(contents=contents)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M)).strip() + "\n", files


def file_name(name: str) -> str:
    """A name from the store as that of a file: no folder, no special character, not too long."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)[:100]


def rendered(text: str) -> Markup:
    """A run's Markdown as HTML: tables and headings, but none of its HTML, links or images."""
    parser = (
        MarkdownIt("commonmark", {"html": False})
        .enable("table")
        .disable(["image", "link", "autolink", "html_block", "html_inline"])
    )
    parser.add_render_rule("table_open", _in_scroller)
    parser.add_render_rule("table_close", lambda self, tokens, i, options, env: "</table></div>")
    tokens = parser.parse(text[:TEXT_LIMIT])
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + HEADING_SHIFT)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def demoted(text: str) -> Markup:
    """A run's Markdown to be put into a larger one: headings lower; HTML, images and links as text.

    A bracket written as an entity ends no link's text and no definition of a link, whatever stands in front of it.
    """
    text = re.sub(r"\](?=[(:\[])", "&#93;", text[:TEXT_LIMIT].replace("<", "&lt;").replace("![", "!\\["))
    lines = text.splitlines()
    return Markup(
        "\n".join(re.sub(r"^(#{1,6})(?= )", lambda m: "#" * min(6, len(m[1]) + HEADING_SHIFT), line) for line in lines)
        + _closing_fence("\n".join(lines))
    )


def _closing_fence(text: str) -> str:
    """What ends a block of code that `text` leaves open, or nothing: all that follows would be code, too."""
    last = next(reversed(MarkdownIt("commonmark").parse(text)), None)
    if last is None or last.type != "fence" or last.map is None:
        return ""
    lines = text.split("\n")[last.map[0] : last.map[1]]
    closed = len(lines) > 1 and re.fullmatch(rf" {{0,3}}{re.escape(last.markup)}+\s*", lines[-1])
    return "" if closed else f"\n{last.markup}"


def _in_scroller(self: Any, tokens: Any, i: int, options: Any, env: Any) -> str:
    return '<div class="scroll"><table>'


def _markdown_text(value: Any) -> Any:
    """What a template puts in, as text: nothing in it is Markdown, and it stays on its line. Markup is put in as it
    is.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    flat = " ".join(value.split())
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*\[\]|~]", r"\\\g<0>", flat).replace("<", "&lt;")


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["slug"] = lambda name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "other"
    return environment
