"""Every command, link, picture and Python block in README.md and docs/ is good: tests/docs/commands.py says how that is
checked.
"""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PATIENCE, ROOT
from tests.docs import commands
from tests.docs.commands import PAGES, Command, Wrong
from tests.running import config_class_of, environment

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def test_every_command_would_be_taken() -> None:
    found = [command for page in PAGES for command in commands.commands_of(page)]
    assert len(found) > 40  # else they are not found
    faults = commands.faults(commands.commands_of, commands.check)
    assert not faults, "\n".join(["commands that would fail:", *faults])


def test_every_bare_parameter_is_some_entry_points() -> None:
    assert sum(len(commands.fragments_of(page)) for page in PAGES) > 5
    faults = commands.faults(commands.fragments_of, commands.check_fragment)
    assert not faults, "\n".join(["parameters that no entry point takes:", *faults])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    faults = []
    for number, target in commands.links_of(page):
        try:
            commands.check_link(page, target)
        except Wrong as fault:
            faults.append(f"{page.name}:{number}: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_compile_and_import_what_is_there(page: Path) -> None:
    blocks, _ = commands.blocks_of(page.read_text())
    for block in blocks:
        if block.language == "python":
            for node in ast.walk(ast.parse("\n".join(block.lines))):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(str(node.module))
                    for name in node.names:
                        assert hasattr(module, name.name), f"{page.name}:{block.line}: {node.module} has no {name.name}"


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve() for page in PAGES for _, target in commands.links_of(page)
    }
    lost = [page.name for page in PAGES if page.name != "README.md" and page not in linked]
    assert not lost, f"no page links to {', '.join(lost)}"


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_entry_point_has_page_row_and_target(entry_point: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / f"{entry_point}.md").is_file()
    assert entry_point in commands.make_targets()[1]
    row = re.search(rf"^\| `{entry_point}` \|(.*)\|(.*)\|(.*)\|$", readme, re.M)
    assert row, f"README's table of entry points has no row for {entry_point}"
    assert f"](docs/{entry_point}.md)" in row[3]
    module = importlib.import_module(f"trainers.{entry_point}.run")
    config_class = config_class_of(module)
    named = re.findall(r"`(\w+)`", row[2])
    assert named
    assert set(named) <= set(config_class.__pydantic_fields__), f"{entry_point}: README names parameters it has not"


# --------------------------------------------------------------------------------------------------------- the check is
# a check


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mlflow run . -e wgan -P gp_scales=5", "did you mean gp_scale?"),
        ("mlflow run . -e wgan -P gp_scale=-5", "greater than or equal to 0"),
        ("mlflow run . -e wgans", "no entry point 'wgans'"),
        ("mlflow run . -e wgan --environment local", "No such option"),
        ("mlflow train . -e wgan", "mlflow has no command 'train'"),
        ("python -m trainers.wgan --step 5", "did you mean steps?"),
        ("python -m trainers.gan", "there is no trainers/gan/"),
        ("python -m benchmarks.isir --round 3 --chain x", "invalid int value"),
        ("python -m benchmarks.isirs", "No module named 'benchmarks.isirs'"),
        ("python -m tracking sink", "invalid choice"),
        ("python -m tracking reap --hours 3", "unrecognized arguments"),
        ("python -m data.eeg inspect --people 3", "unrecognized arguments"),
        ('make wgan ARGS="-P stepz=3"', "did you mean steps?"),
        ('make wgan ARG="-P steps=3"', "the Makefile has no variable ARG"),
        ("make gan", "the Makefile has no target 'gan'"),
        ("python -m pytest tests/test_import.py", "there is no tests/test_import.py"),
        ("python -m pytest tests/test_imports.py -k upwards", "called like 'upwards'"),
        ("torchrun --nodes=2 -m trainers.wgan", "--nodes"),
        ("torchrun --nnodes=2 -m trainers.wgan --presets celeba", "did you mean preset?"),
        ("docker run --rm wgan-eeg python -m trainers.wgan --stepz 3", "did you mean steps?"),
        ("docker build -f Dockerfile.gone .", "there is no Dockerfile.gone"),
        ("mlfow run .", "'mlfow' is of no form"),
        ("python -m wgan", "is of no form"),
    ],
)
def test_a_wrong_command_is_noticed(text: str, why: str) -> None:
    with pytest.raises(Wrong, match=re.escape(why)):
        commands.check(Command(ROOT / "README.md", 1, text))


def test_commands_are_found_with_their_lines_and_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        '# Words\n\nRun `make wgan ARGS="-P a=1; 2"`, then `-P steps=3`; `make` alone is a word, `python` too.\n\n'
        "```sh\nmake fid; make isir_fid   # a comment; with make\nmlflow run . \\\n   -e wgan  # needs a GPU\n```\n\n"
        "<!-- needs: docker -->\n```\ndocker run x && docker ps\n```\n\n```text\nmake "
        "nothing\n```\n\n```\nphotos/a.jpg\n```\n"
        "`mlflow run . -e\nfid` <!-- needs: data -->\n"
    )
    found = [(c.line, c.text, c.needs) for c in commands.commands_of(page)]
    assert found == [
        (3, 'make wgan ARGS="-P a=1; 2"', ""),
        (6, "make fid", ""),
        (6, "make isir_fid", ""),
        (7, "mlflow run .     -e wgan", "a GPU"),
        (13, "docker run x", "docker"),
        (13, "docker ps", "docker"),
        (23, "mlflow run . -e fid", "data"),
    ]
    assert [(c.line, c.text) for c in commands.fragments_of(page)] == [(3, "-P steps=3")]


def test_a_wrong_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "## On a GPU, on several\n\n## `x`: y\n\n## `x`: y\n\n[a](#on-a-gpu-on-several) [b](#x-y-1) ![c](no.png)\n"
    )
    assert [target for _, target in commands.links_of(page)] == ["#on-a-gpu-on-several", "#x-y-1", "no.png"]
    commands.check_link(page, "#on-a-gpu-on-several")
    commands.check_link(page, "#x-y-1")
    for target in ("no.png", "#x-y-2", "other.md#x"):
        with pytest.raises(Wrong):
            commands.check_link(page, target)


@pytest.mark.slow
def test_what_answers_at_once_really_runs(tmp_path: Path) -> None:
    """--help and --dry_run of the pages, as a shell runs them."""
    quick = {
        command.text.replace(".venv/bin/python", "python")
        for page in PAGES
        for command in commands.commands_of(page)
        if command.text.endswith(("--help", "--dry_run")) and not command.needs
    }
    assert len(quick) > 4
    for text in sorted(quick):
        done = subprocess.run(
            text.replace("python", sys.executable, 1),
            shell=True,
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{text}: {done.stderr.decode()}"
