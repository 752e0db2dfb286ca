"""Tables of the report that stand in artifacts and files: sweeps, CSV, a study's best settings, the output of
benchmarks.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from tracking.reading import RecordedRun
from trainers.report.figures import INFINITE

MOST_ROWS = 200
"""Rows of a CSV table that are shown."""


@dataclass(frozen=True)
class Table:
    """Rows of text. `runs`: the run of each row, where a row is a run's."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    runs: Sequence[RecordedRun] = ()
    title: str = ""


def number(value: float) -> str:
    """Four digits; NaN and infinity by name."""
    if math.isnan(value):
        return "NaN"
    if abs(value) >= INFINITE:
        return "inf" if value > 0 else "-inf"
    return f"{value:.4g}"


def sweep_tables(text: str | None) -> list[Table]:
    """The tables under `sweeps` of a JSON artifact: {what is swept: [{column: number}]}; none if it has another
    shape.
    """
    try:
        sweeps = json.loads(text or "{}").get("sweeps", {})
        tables = []
        for name, rows in sweeps.items():
            if not rows:
                continue
            columns = list(dict.fromkeys([name, *(column for row in rows for column in row)]))
            ordered = sorted(rows, key=lambda row: float(row[name]))
            cells = [[number(float(row[c])) if c in row else "" for c in columns] for row in ordered]
            tables.append(Table([c.replace("_", " ") for c in columns], cells, title=f"Sweep over {name}"))
        return tables
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return []


def csv_table(text: str | None, title: str, left_out: Sequence[str] = ()) -> Table | None:
    """The table of a CSV artifact, without the columns `left_out` and those that are empty; None if there is nothing in
    it.
    """
    rows = [row for row in csv.reader(io.StringIO(text or "")) if row]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return None
    head, body = rows[0], rows[1 : MOST_ROWS + 1]
    kept = [i for i, name in enumerate(head) if name not in left_out and any(row[i] for row in body)]
    more = f"; the first {MOST_ROWS} of {len(rows) - 1}" if len(rows) - 1 > MOST_ROWS else ""
    cells = [[_rounded(row[i]) for i in kept] for row in body]
    return Table([head[i] for i in kept], cells, title=title + more)


def _rounded(cell: str) -> str:
    try:
        return number(float(cell)) if "." in cell or "e" in cell else cell
    except ValueError:
        return cell


def settings_table(text: str | None, title: str) -> Table | None:
    """The parameters and the seed of a study's winner, from its JSON artifact; None if it has another shape."""
    try:
        found = json.loads(text or "")
        settings = {**found["params"], "seed": found["seed"]}
        return Table(["parameter", "value"], [[str(k), _rounded(str(v))] for k, v in settings.items()], title=title)
    except (ValueError, TypeError, KeyError):
        return None


def benchmark_tables(folder: Path) -> list[Table]:
    """A table for each benchmark result in a folder: a JSON file, or a benchmark's output, whose last line is the JSON.

    Raises InputError for a folder that is not there or holds none.
    """
    if not folder.is_dir():
        raise InputError(
            f"benchmarks: {folder} is not a folder; give one that holds the output of `python -m benchmarks.NAME`"
        )
    tables = [
        table
        for path in sorted(folder.iterdir())
        if path.is_file() and (table := benchmark_table(path.read_text(errors="replace")))
    ]
    if not tables:
        raise InputError(
            f"benchmarks: no file in {folder} ends with a benchmark's line of JSON; make one with "
            f"`python -m benchmarks.isir | tee {folder}/isir.txt`"
        )
    return tables


def benchmark_table(text: str) -> Table | None:
    """The table of one benchmark's output; None if its last line (or the whole) is not a benchmark's JSON."""
    lines = text.strip().splitlines()
    for candidate in (text, lines[-1] if lines else ""):
        try:
            result = json.loads(candidate)
            ratios, spread = result["ratios"], result.get("spread", {})
            rows = []
            for label, ratio in ratios.items():
                low, high = spread.get(label, [math.nan, math.nan])
                around = f"{number(float(low))} to {number(float(high))}" if math.isfinite(float(low)) else ""
                rows.append([str(label), number(float(ratio)), around])
            conditions = ", ".join(f"{name} {value}" for name, value in result.get("conditions", {}).items())
            return Table(
                ["beside", "ratio (median)", "lowest to highest"], rows, title=f"{result['name']} ({conditions})"
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None
