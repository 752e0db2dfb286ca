"""The summary: what a run found, as Markdown, rendered from the Jinja template `summary.md.j2` in its trainer's folder.

A trainer works out the values; the words stand in the template. The run records the text as `summary.md`, and the
report shows it.
"""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SUMMARY = "summary.md"
"""The artifact that a run's summary is recorded as."""


def render_summary(folder: Path, **values: Any) -> str:
    """The template `summary.md.j2` of `folder` with `values`; see `render_text`."""
    return render_text(folder / f"{SUMMARY}.j2", **values)


def render_text(template: Path, **values: Any) -> str:
    """The template with `values`, ending in one newline.

    A name that the template uses and nobody gave raises jinja2.UndefinedError. Nothing is escaped: Markdown is not
    HTML, and whoever shows it as HTML escapes it. A line that holds nothing but a `{% %}` leaves no line behind.

    The filter `number` formats floats: `{{ x | number }}` has four significant digits, `{{ x | number("+.2f") }}` what
    Python's format makes of it.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template.name).render(values).strip() + "\n"


def number(value: Any, spec: str = ".4g") -> str:
    """A float in the format `spec`, without the sign of a zero; whole numbers and text as they are, None as nothing."""
    if value is None:
        return ""
    return format(value, re.sub(r"^([-+ ]?)", r"\1z", spec)) if isinstance(value, float) else str(value)
