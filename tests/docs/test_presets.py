"""The table of presets in docs/wgan.md says what the presets are."""

import re

from tests.conftest import ROOT
from trainers.wgan.config import PRESETS, WganConfig
from training.config import preset_config


def rows_of(page: str) -> tuple[list[str], list[tuple[list[str], list[str]]]]:
    """(presets, rows): a row has the fields that it names, and a cell for each preset."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    first = next(i for i, line in enumerate(lines) if "`preset=" in line)
    rows = []
    for line in lines[first + 2 :]:
        names, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != lines[first].count("`preset="):
            break
        rows.append((re.findall(r"`(\w+)`", names), cells))
        if "flip" in names:
            break
    return re.findall(r"`preset=(\w+)`", lines[first]), rows


def test_the_table_of_presets_is_that_of_the_code() -> None:
    presets, rows = rows_of((ROOT / "docs" / "wgan.md").read_text())
    assert set(presets) == set(PRESETS)
    assert {"steps", "batch_size", "lr_generator", "lr_critic", "ngf", "ema_decay"} <= {
        n for row, _ in rows for n in row
    }
    for names, cells in rows:
        for preset, cell in zip(presets, cells, strict=True):
            data_dir = "photos.zip" if preset == "photos" else None
            config = preset_config(WganConfig, PRESETS, preset, data_dir=data_dir)
            said = re.split(r", | \(", cell)[: len(names)]
            for name, text in zip(names, said, strict=True):
                value = getattr(config, name)
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                assert (float(text.replace(",", "")) == value) if is_number else text == str(value).lower(), (
                    preset,
                    name,
                )
