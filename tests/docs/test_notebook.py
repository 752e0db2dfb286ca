"""docs/exercise.ipynb: made from its source, run to the end, and fit to be published."""

import nbformat
import pytest

from docs.make_notebook import NOTEBOOK, SOURCE, build, faults, run


def test_a_source_becomes_cells() -> None:
    notebook = build("# %% [markdown]\n# # Title\n#\n# $a_1$\n\n# %%\nx = 1  # one\n\n\n# %%\nprint(x)\n")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        ("markdown", "# Title\n\n$a_1$"),
        ("code", "x = 1  # one"),
        ("code", "print(x)"),
    ]
    nbformat.validate(notebook)
    with pytest.raises(ValueError, match="before the first cell"):
        build("import os\n# %%\n")


def test_the_notebook_is_that_of_its_source() -> None:
    stored, built = nbformat.read(NOTEBOOK, as_version=4), build(SOURCE.read_text())
    assert [(c.cell_type, c.source) for c in stored.cells] == [(c.cell_type, c.source) for c in built.cells], (
        "docs/exercise.py has changed: python -m docs.make_notebook"
    )
    nbformat.validate(stored)
    assert faults(stored) == []
    pictures = [o for c in stored.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 10


def test_faults_are_seen() -> None:
    def with_output(**output: object) -> list[str]:
        notebook = build("# %%\nx = 1\n")
        notebook.cells[0]["execution_count"] = 1
        notebook.cells[0]["outputs"] = [nbformat.from_dict(output)]
        return faults(notebook)

    assert with_output(output_type="stream", name="stdout", text="all is well: 3 images/s") == []
    assert "stderr" in with_output(output_type="stream", name="stderr", text="UserWarning: x")[0]
    assert "path" in with_output(output_type="stream", name="stdout", text="in /home/someone/x.py")[0]
    assert "bytes" in with_output(output_type="stream", name="stdout", text="x" * 1_000_001)[0]
    assert "has not run" in faults(build("# %%\nx = 1\n"))[0]


@pytest.mark.slow
def test_the_notebook_runs_anew() -> None:
    assert faults(run(build(SOURCE.read_text()))) == []
