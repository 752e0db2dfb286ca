"""The report's parts: charts with few points, pictures and texts made harmless, tables out of artifacts."""

import io
import math
import re

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.conftest import ROOT
from tests.trainers.report.test_run import TRIALS, png
from trainers.report.contents import load_sections, picture_groups
from trainers.report.figures import small_picture, thinned
from trainers.report.page import demoted, rendered
from trainers.report.tables import csv_table, number, settings_table, sweep_tables
from training.section import FIGURES, Pictures, Section


def test_thinning_keeps_ends_spikes_and_gaps() -> None:
    points = [(i, 0.0) for i in range(10_000)]
    points[5_001], points[7_777], points[3_333] = (5_001, 9.0), (7_777, -9.0), (3_333, math.nan)
    kept = thinned(points)
    assert len(kept) <= 410
    assert {(0, 0.0), (9_999, 0.0), (5_001, 9.0), (7_777, -9.0)} <= set(kept)
    assert any(math.isnan(value) for _, value in kept)
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)
    assert thinned(points[:300]) == points[:300]


def test_numbers_read_as_such() -> None:
    assert [number(v) for v in (0.123456, 1e-9, 12345.0, math.nan, 1.8e308, -math.inf)] == [
        "0.1235",
        "1e-09",
        "1.234e+04",
        "NaN",
        "inf",
        "-inf",
    ]


def test_pictures_are_small_and_encoded_anew() -> None:
    noisy = png(3000, 300)
    small = small_picture(noisy + b"trailing <script>")
    assert small is not None
    assert Image.open(io.BytesIO(small)).size == (900, 90)
    assert b"script" not in small
    assert small_picture(b"") is None
    assert small_picture(b"GIF89a") is None


def test_texts_lose_html_links_and_images_and_keep_tables() -> None:
    shown = str(
        rendered("# A\n\n| a |\n|---|\n| *b* |\n\n<b>c</b> [d](http://x) ![e](http://y) <http://z>\n\n<div>\nf")
    )
    assert "<h5>A</h5>" in shown
    assert '<div class="scroll"><table>' in shown
    assert "<em>b</em>" in shown
    assert not re.search(r"<(b|div class=(?!\"scroll)|a|img)\b", shown)
    assert str(demoted("# A\n## B\n#no\n<b>")) == "##### A\n###### B\n#no\n&lt;b>"


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        r"\[a\](javascript:alert(1)) \\[b\\](javascript:alert(2))",
        "![a](javascript:1) \\![b](javascript:2)",
        "[a]\n\n[a]: javascript:alert(1)",
        "[a][b] [b]\n\n[b]:\njavascript:alert(1)",
        "[a\nb](javascript:alert(1)\n'title')",
        "<javascript:alert(1)> <a href='javascript:1'>x</a>",
        "> [a](javascript:alert(1))\n- [b](javascript:2)\n\n| a |\n|---|\n| [c](javascript:3) |",
        "[[a](javascript:1)](javascript:2)",
    ],
)
def test_no_link_survives_in_the_markdown(text: str) -> None:
    """As another program's reading of the page shows."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # by itself it leaves javascript: out
    assert re.search("<(a|img) ", parser.render(text))
    shown = parser.render(str(demoted(text)))
    assert not re.search("<(a|img) ", shown), shown
    assert "javascript" in shown


def test_a_block_of_code_that_is_left_open_ends_with_its_text() -> None:
    for text in ("```\nx", "~~~~ sh\n~~~\nx", "a\n\n```"):
        shown = MarkdownIt("commonmark").render(f"{demoted(text)}\n\n## Next")
        assert "<h2>Next</h2>" in shown, text
    assert str(demoted("```\nx\n```")) == "```\nx\n```"


def test_a_picture_of_gigabytes_is_not_opened() -> None:
    buffer = io.BytesIO()
    Image.new("P", (6000, 5000)).save(buffer, "PNG")
    assert small_picture(buffer.getvalue()) is None
    assert small_picture(buffer.getvalue()[:100]) is None


def test_sweeps_of_another_shape_are_no_table() -> None:
    [table] = sweep_tables('{"sweeps": {"beta": [{"beta": 3, "fid": 2}, {"beta": 1, "fid": 4.5, "ess": 2}]}}')
    assert list(table.head) == ["beta", "fid", "ess"]
    assert [list(row) for row in table.rows] == [["1", "4.5", "2"], ["3", "2", ""]]
    for text in (
        None,
        "",
        "{",
        "[]",
        '{"sweeps": 3}',
        '{"sweeps": {"beta": []}}',
        '{"sweeps": {"beta": [{"other": 1}]}}',
    ):
        assert sweep_tables(text) == []


def test_tables_of_another_shape_are_left_out() -> None:
    table = csv_table(TRIALS, "all", ("run_id",))
    assert table is not None
    head = [
        "trial",
        "state",
        "kernel_distance",
        "gp_scale",
        "n_dis",
        "seed",
        "steps_reported",
    ]  # without what is empty in all
    assert list(table.head) == head
    assert list(table.rows[0]) == ["0", "COMPLETE", "0.1235", "10", "1", "1000", "8"]
    long = csv_table("n\n" + "1\n" * 1000, "many")
    assert long is not None
    assert len(long.rows) == 200
    assert long.title == "many; the first 200 of 1000"
    for text in (None, "", "trial,state\n", "a,b\n1\n"):
        assert csv_table(text, "x") is None
    for text in (None, "", "[]", "{}", '{"params": 3, "seed": 1}', '{"params": {}}'):
        assert settings_table(text, "x") is None


def test_every_trainer_has_a_section_in_an_order_of_its_own() -> None:
    sections = load_sections()
    folders = {path.parent.name for path in (ROOT / "trainers").glob("*/__main__.py")}
    assert set(sections) == folders - {"report"}
    places = [section.place for section in sections.values()]
    assert places == sorted(set(places))


def test_pictures_stand_under_their_heading_once_and_steps_are_spread() -> None:
    section = Section(
        title="",
        place=0,
        pictures=(Pictures("Samples", r"figures/s_.*", (("s_b", "second"), ("s_a", "first"))), FIGURES),
        drawn_anew=("figures/drawn.png",),
    )
    stepped = [f"images/grid+step+{step}+timestamp+1.png" for step in range(0, 100, 10)]
    names = ["s_a", "s_b", "s_c", "other", "drawn"]
    groups = dict(picture_groups(section, [*(f"figures/{name}.png" for name in names), "table.csv", *stepped]))
    assert [(name, caption) for _, name, caption in groups["Samples"]] == [
        ("s_b", "second"),
        ("s_a", "first"),
        ("s_c", "s c"),
    ]
    assert groups["Figures"] == [("figures/other.png", "other", "other")]
    assert [name for _, name, _ in groups["Grid against step"]] == ["grid_0", "grid_30", "grid_60", "grid_90"]
