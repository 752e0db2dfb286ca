"""Formulas in docs/ keep to what GitHub, GitLab and Gitea all render: Markdown may take a formula apart before TeX sees
it.
"""

import re

import pytest

from tests.conftest import ROOT

TRAPS = {
    r"\\[^a-zA-Z\s]": "a backslash before punctuation, which Markdown removes (\\lbrace, \\quad, \\Vert instead)",
    r"\*": "an asterisk, which may become emphasis (\\ast instead)",
    r"<": "<, which may become HTML (\\lt instead)",
    r"\|": "a bar, which ends a table's cell (\\vert, \\lvert, \\Vert instead)",
    r"[^\w\s]_[^\w\s]": "an underscore between punctuation, which may become emphasis",
    r"^\s|\s$": "a space beside the dollar: not taken for a formula",
}


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if "$" in without_code(path.read_text())
]


def formulas(text: str) -> tuple[list[str], list[str], str]:
    """(displayed ones, ones in the line, what is left) of a page without its code."""
    text = without_code(text)
    shown = re.findall(r"\$\$(.*?)\$\$", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    return shown, re.findall(r"\$([^$\n]+)\$", text), re.sub(r"\$[^$\n]+\$", "", text)


def faults(formula: str) -> list[str]:
    return [why for pattern, why in TRAPS.items() if re.search(pattern, formula)]


def test_the_traps_are_seen() -> None:
    good = r"P_\theta(S_\theta) = \lvert \delta \rvert, \quad E_{y} \lt z^{2}_1"
    assert faults(good) == []
    for bad in (r"\{a\}", "P_*", "a < b", "|a|", r"\mathrm{KL}_\sigma", r"a \\ b", "a "):
        assert faults(bad), bad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_render_on_the_usual_forges(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text()
    shown, inline, rest = formulas(text)
    assert shown or inline
    assert "$" not in rest, f"a dollar without its partner in {page.name}: {rest[rest.index('$') - 60 :][:120]!r}"
    for formula in [*shown, *inline]:
        assert not faults(formula), f"{page.name}: {formula}: {faults(formula)}"
        assert formula.count("{") == formula.count("}"), formula
    for (
        formula
    ) in shown:  # a block of its own, in one line: a line that begins with = or - would be a heading or a list
        assert "\n" not in formula
        assert f"\n\n$${formula}$$\n\n" in text, formula
