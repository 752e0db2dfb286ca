"""The summary of a run: rendered from its trainer's template, with nothing missing and nothing escaped."""

from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from training.summary import number, render_summary

TEMPLATE = """
# {{ name }}

| x | y |
|---|---|
{% for x, y in rows %}
| {{ x | number }} | {{ y | number("+.1f") }} |
{% endfor %}

{% if rows | length > 5 %}
Many.
{% endif %}
Done.

"""


def test_a_template_is_filled_and_nothing_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "summary.md.j2").write_text(TEMPLATE)
    text = render_summary(tmp_path, name="a < b & c", rows=[(0.123456, -2.0), (7, None)])
    assert text == "# a < b & c\n\n| x | y |\n|---|---|\n| 0.1235 | -2.0 |\n| 7 |  |\n\nDone.\n"


def test_a_missing_value_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "summary.md.j2").write_text(TEMPLATE)
    with pytest.raises(UndefinedError, match="rows"):
        render_summary(tmp_path, name="x")


def test_numbers() -> None:
    assert [number(v) for v in (1234567.0, 1234567, "as it is", None, np.float64(0.5))] == [
        "1.235e+06",
        "1234567",
        "as it is",
        "",
        "0.5",
    ]
    assert number(0.5, ".3f") == "0.500"
    assert [number(-0.0004, spec) for spec in (".3f", "+.3f", ".1g")] == ["0.000", "+0.000", "-0.0004"]
    assert number(-0.0, "g") == "0"
