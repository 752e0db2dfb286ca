"""What the parts found, as JSON and as a page in Markdown."""

import json
import os
from pathlib import Path
from typing import Any


def write(out: Path, facts: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """gpu.json and gpu.md in the folder, each whole at any time."""
    put(out / "gpu.json", json.dumps({**facts, "parts": parts}, indent=1) + "\n")
    put(out / "gpu.md", page(facts, parts))


def put(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text)
    os.replace(beside, path)


def page(facts: dict[str, Any], parts: list[dict[str, Any]]) -> str:
    """Facts, then each part: its tables, what failed and why."""
    lines = ["# Measured on " + str(facts.get("device", "an unknown device")), ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    for part in parts:
        lines += ["", f"## {part['part']}", "", f"{part['seconds']:.0f} s of {part['box']:.0f}; {part['ended']}."]
        for title, rows in part["tables"].items():
            lines += ["", f"### {title}", "", *table(rows)]
        if part["failures"]:
            lines += ["", "Failed:", "", *failed(part["failures"])]
    return "\n".join(lines) + "\n"


def failed(failures: list[dict[str, str]]) -> list[str]:
    """A line for each reason, with all that failed for it."""
    reasons = dict.fromkeys(found["why"] for found in failures)
    named = {why: [found["failure"] for found in failures if found["why"] == why] for why in reasons}
    return [f"- {why}: {'; '.join(names)}" for why, names in named.items()]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows in Markdown; columns in the order in which they first come."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * len(columns) + "|"]
    return text + ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "" if value is None else str(value).replace("|", "\\|")


def read_part(path: Path) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, str]]]:
    """(tables, failures) of the lines that a part wrote; a last line that was cut is left out."""
    tables: dict[str, list[dict[str, Any]]] = {}
    failures: list[dict[str, str]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "table" in record:
            tables.setdefault(record["table"], []).append(record["row"])
        else:
            failures.append(record)
    return tables, failures
