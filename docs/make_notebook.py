"""Make docs/exercise.ipynb from docs/exercise.py: cells, then their outputs by running them.

    python -m docs.make_notebook

In the source a line `# %%` begins a cell of code, `# %% [markdown]` one of text. The notebook is replaced only if every
cell ran, no output has a warning or a path of this machine, and all is less than a megabyte.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from common.files import atomic_file

FOLDER = Path(__file__).resolve().parent
SOURCE, NOTEBOOK = FOLDER / "exercise.py", FOLDER / "exercise.ipynb"
LIMIT_BYTES = 1_000_000


def build(source: str) -> Any:
    """The notebook of a source, without outputs."""
    parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    if parts[0].strip():
        raise ValueError(f"text before the first cell: {parts[0]!r}")
    cells = []
    for number, (kind, body) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        text = body.strip("\n")
        if kind.strip() == "[markdown]":
            cell = nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", text, flags=re.MULTILINE))
        else:
            cell = nbformat.v4.new_code_cell(text)
        cell["id"] = f"cell-{number}"  # random ones would change with every build
        cells.append(cell)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def run(notebook: Any, seconds_per_cell: int = 600) -> Any:
    """Run every cell in a fresh kernel; raises nbclient's CellExecutionError for one that fails."""
    NotebookClient(notebook, timeout=seconds_per_cell, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:
        cell.get("metadata", {}).pop("execution", None)  # times of this run
    language = notebook.metadata["language_info"]
    notebook.metadata["language_info"] = {"name": language["name"]}
    return notebook


def faults(notebook: Any) -> list[str]:
    """What should not be published: cells that have not run or failed, warnings, paths of a machine, too many bytes."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            found.append(f"cell {number} has not run")
        for output in cell.outputs:
            text = str(output.get("text", "")) + str(
                {k: v for k, v in output.get("data", {}).items() if "image" not in k}
            )
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr: {text[:300]}")
            if path := re.search(r"(/home|/root|/tmp|/work|/usr|/var|[A-Z]:\\\\)[/\\]\S*", text):
                found.append(f"cell {number} shows a path: {path[0]}")
    size = len(nbformat.writes(notebook).encode())
    if size > LIMIT_BYTES:
        found.append(f"{size:,} bytes; at most {LIMIT_BYTES:,}")
    return found


def main() -> None:
    notebook = run(build(SOURCE.read_text()))
    if problems := faults(notebook):
        raise SystemExit("\n".join(["not written:", *problems]))
    with atomic_file(NOTEBOOK) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n")
    print(f"{NOTEBOOK.name}: {len(notebook.cells)} cells, {NOTEBOOK.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
