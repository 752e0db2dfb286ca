"""`python -m tests.faults.table FOLDER PAGE`: the counts of `make faults` as the table of docs/reliability.md."""

import json
import sys
from pathlib import Path

BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->\n"


def table(rows: list[dict]) -> str:
    """A row for each fault: how often it was injected, what came of it, what was lost, what a user sees."""
    lines = [
        "| fault | injected | outcomes | lost, wrong, or a traceback | what the user sees |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["fault"]):
        outcomes = ", ".join(
            f"{count:,} {name}" for name, count in sorted(row["outcomes"].items(), key=lambda o: -o[1])
        )
        lines.append(
            f"| {row['fault']} | {row['cases']:,} | {outcomes} | {row['failures'] or 'none'} | {row['shown']} |"
        )
    return "\n".join(lines) + "\n"


def main(folder: str, page: str) -> None:
    """Put the table between its two marks."""
    rows = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]
    text = Path(page).read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    Path(page).write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
    print(
        f"{page}: {len(rows)} faults, {sum(row['cases'] for row in rows):,} times, "
        f"{sum(row['failures'] for row in rows)} failures"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
