"""The commands in README.md and docs/*.md: found, and checked against the parsers that would read them, without being
run.

A block of commands is fenced as `sh` (a bare fence counts if one of its lines begins like a command). Commands in the
text, in backticks, count if they begin like one. What can't be run on a plain machine is marked: by a line `<!-- needs:
GPU -->` (or data, docker, network, ...) above its block, or by `# needs ...` behind the command.
"""

import argparse
import importlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from common.errors import InputError
from tests.conftest import ROOT
from tests.running import config_class_of
from training.config import parse_config

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

SHELL = ("sh", "bash", "shell", "console")

HEADS = (
    "mlflow",
    "python",
    "python3",
    "make",
    "docker",
    "podman",
    "torchrun",
    "curl",
    "pip",
    "git",
    "export",
    ".",
    "cd",
    "optuna-dashboard",
)
"""First words of commands, behind variables and `.venv/bin/`."""

FENCE = re.compile(r"^ *(`{3,}) *([\w+-]*)")


class Wrong(Exception):
    """A command that would not work, and why."""


@dataclass(frozen=True)
class Command:
    """One command of a page.

    needs: what the page says it needs beyond this project; empty if it says nothing. in_text: it stands in a sentence,
    which may speak of a part of a command (`mlflow run . --experiment-name x`).
    """

    page: Path
    line: int
    text: str
    needs: str = ""
    in_text: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


# -------------------------------------------------------------------------------------------------------------------
# finding


@dataclass(frozen=True)
class Block:
    """A fenced block. line: that of its first line of text."""

    language: str
    line: int
    lines: tuple[str, ...]
    needs: str


def blocks_of(text: str) -> tuple[list[Block], list[tuple[int, str]]]:
    """(the fenced blocks, the other lines with their numbers)."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    fence, language, begin, inside, needs = "", "", 0, list[str](), ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if fence:
            if match and line.strip().startswith(fence) and not match[2]:
                blocks.append(Block(language, begin, tuple(inside), needs))
                fence, needs = "", ""
            else:
                inside.append(line)
        elif match:
            fence, language, begin, inside = match[1], match[2], number + 1, []
        else:
            if marker := re.match(r"\s*<!-- *needs: *(.+?) *-->", line):
                needs = marker[1]
            elif line.strip():
                needs = ""
            prose.append((number, line))
    return blocks, prose


def looks_like_command(text: str) -> bool:
    """Whether it begins like a command of one of HEADS, with a second word."""
    words = re.sub(r"^(\$ |(\w+=\S* +)+)", "", text.strip()).split()
    if words[1:2] in (["-m"], ["run"]):  # `python -m` alone is a word
        return len(words) > 2 and words[0].removeprefix(".venv/bin/") in HEADS
    return len(words) > 1 and words[0].removeprefix(".venv/bin/") in HEADS


def commands_of(page: Path) -> list[Command]:
    """The commands of a page in order, one each: a line is split at `;`, `&&` and `|`, continued lines are joined."""
    blocks, prose = blocks_of(page.read_text())
    found: list[Command] = []
    for block in blocks:
        if block.language in SHELL or (not block.language and any(map(looks_like_command, block.lines))):
            number, whole = block.line, ""
            for i, line in enumerate(block.lines):
                number = number if whole else block.line + i
                whole += line.removeprefix("$ ")
                if whole.endswith("\\"):
                    whole = whole[:-1] + " "
                    continue
                if _quote_is_open(whole):
                    whole += "\n"
                    continue
                found += _split(page, number, whole, block.needs, in_text=False)
                whole = ""
    paragraph = "\n".join(line for _, line in prose)
    numbers = [number for number, _ in prose]
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", paragraph):
        text = " ".join(match[1].split())
        if looks_like_command(text):
            behind = paragraph[match.end() : match.end() + 40]
            needs = marked[1] if (marked := re.match(r" *<!-- *needs: *(.+?) *-->", behind)) else ""
            found += _split(page, numbers[paragraph.count("\n", 0, match.start())], text, needs, in_text=True)
    return sorted(found, key=lambda command: command.line)


def _split(page: Path, line: int, text: str, needs: str, in_text: bool) -> list[Command]:
    comment = re.search(r"(?:^|\s)#(.*)$", _without_quotes(text))
    if comment and "needs" in comment[1]:
        needs = comment[1].split("needs", 1)[1].strip()
    code = text[: comment.start()] if comment else text
    parts = [part.strip() for part in re.split(r"\s*(?:;|&&|\|\|?)\s*(?=(?:[^\"']|\"[^\"]*\"|'[^']*')*$)", code)]
    return [Command(page, line, part, needs, in_text) for part in parts if part]


def _quote_is_open(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _without_quotes(text: str) -> str:
    """The text with quoted parts blanked, of equal length."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "x" * len(match[0]), text)


def fragments_of(page: Path) -> list[Command]:
    """Backticked parameters without their command: `-P dataset=folder -P data_dir=photos.zip`."""
    _, prose = blocks_of(page.read_text())
    return [
        Command(page, number, match[1])
        for number, line in prose
        for match in re.finditer(r"(?<!`)`(-P [^`]+)`(?!`)", line)
    ]


# ------------------------------------------------------------------------------------------------------------------
# checking


def words_of(text: str) -> list[str]:
    """The words of a command; what stands for others (`...`, `<run id>`, `-P name=value`) is left out or filled in."""
    text = re.sub(r"<[\w ]+>|\$\([^)]*\)", "x", text)
    text = re.sub(r"\s(\.\.\.|-P name=value|--name value)(?=\s|$)", "", f" {text}")
    return shlex.split(text.replace("...", "x"))


def check(command: Command) -> None:
    """Raises Wrong if the command's words would be refused, or if it is of no known form."""
    try:
        _check(command)
    except Wrong as fault:
        # A sentence may name a command without what it needs, or with a word that stands for others in capitals.
        stands = re.search(r"'([A-Z]{3,})'", str(fault))
        if command.in_text and ("arguments are required" in str(fault) or (stands and stands[1] in command.text)):
            return
        raise
    except (IndexError, ValueError, KeyError, SyntaxError) as error:
        raise Wrong(f"can't be read: {error}") from error


def _check(command: Command) -> None:
    text = re.sub(r"^(\w+=(\"[^\"]*\"|'[^']*'|\S*) +)+", "", command.text)
    text = re.sub(r"\s*(>|>>|2>&1).*$", "", text)
    words = words_of(text)
    if not words or re.fullmatch(r"\w+=.*", text):
        return
    head = words[0].removeprefix(".venv/bin/")
    if head in ("python", "python3") and words[1:2] == ["-m"]:
        check_module(words[2], words[3:])
    elif head == "mlflow":
        check_mlflow(words[1:], whole=not command.in_text)
    elif head == "make":
        check_make(words[1:])
    elif head == "torchrun":
        check_torchrun(words[1:])
    elif head in ("docker", "podman"):
        check_docker(words[1:])
    elif head == ".":
        if words[1:] != [".venv/bin/activate"]:
            raise Wrong("only .venv/bin/activate is sourced")
    elif head in ("python", "python3") and words[1] == "-c":
        compile(words[2], str(command.page), "exec")
    elif head in ("python", "python3"):
        if not (ROOT / words[1]).is_file():
            raise Wrong(f"there is no {words[1]}")
    elif head == "cd":
        return
    elif head in (
        "cp",
        "mkdir",
        "export",
        "git",
        "curl",
        "pip",
        "uv",
        "tee",
        "head",
        "sleep",
        "apt-get",
        "jupyter",
        "optuna-dashboard",
        "python",
        "kill",
    ):
        return  # other people's programs, whose words are not ours to know
    else:
        raise Wrong(f"{head!r} is of no form that tests/docs/commands.py knows; teach it")


def check_trainer(entry_point: str, argv: Sequence[str]) -> None:
    """The trainer's own parser takes the words."""
    try:
        module = importlib.import_module(f"trainers.{entry_point}.run")
    except ModuleNotFoundError:
        raise Wrong(f"there is no trainers/{entry_point}/") from None
    config_class = config_class_of(module)
    if config_class is None:  # a tool beside the entry points
        check_argparse(module.__name__, argv)
        return
    try:
        with redirect_stdout(io.StringIO()):
            parse_config(config_class, getattr(module, "PRESETS", {}), argv, entry_point)
    except InputError as error:
        raise Wrong(str(error)) from None
    except SystemExit as end:  # --help, --dry_run
        if end.code:
            raise Wrong(f"exit status {end.code}") from None


def check_module(module: str, argv: Sequence[str]) -> None:
    """`python -m module argv`."""
    if module.endswith(".NAME"):
        return  # stands for any
    if module.startswith("trainers."):
        check_trainer(module.removeprefix("trainers."), argv)
    elif module == "pytest":
        check_pytest(argv)
    elif module == "torch.distributed.run":
        check_torchrun(argv)
    elif module.split(".")[0] in ("benchmarks", "tracking", "data", "tests", "training"):
        check_argparse(f"{module}.__main__" if module in ("tracking", "data.eeg", "benchmarks.gpu") else module, argv)
    elif module not in ("venv", "pip", "http.server"):
        raise Wrong(f"python -m {module} is of no form that tests/docs/commands.py knows; teach it")


class Parsed(Exception):
    """The parser took the words; the program goes no further."""


def check_argparse(module_name: str, argv: Sequence[str]) -> None:
    """The words reach the module's own parser, and nothing behind it runs."""
    argv = [word.strip("[]") for word in argv]  # `sync [folder]`
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise Wrong(f"{module_name}: {error}") from None
    if "ArgumentParser" not in Path(str(module.__file__)).read_text():
        if argv:
            raise Wrong(f"{module_name} takes no arguments")
        return
    if not hasattr(module, "main"):
        raise Wrong(f"{module_name} has no main()")
    parse = argparse.ArgumentParser.parse_args

    def stop_behind(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(self, *given, **named)
        raise Parsed

    errors = io.StringIO()
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", stop_behind),
            mock.patch.object(sys, "argv", [module_name, *argv]),
            redirect_stdout(io.StringIO()),
            redirect_stderr(errors),
        ):
            module.main()
    except Parsed:
        return
    except SystemExit as end:
        if end.code:
            raise Wrong(errors.getvalue().strip().splitlines()[-1]) from None
        return
    raise Wrong(f"{module_name} does not read its arguments by argparse")


def check_mlflow(words: Sequence[str], whole: bool = True) -> None:
    """MLflow's own command line takes the words; of `mlflow run` of this project, the trainer's as well.

    whole: an entry point must be there.
    """
    import click
    from mlflow.cli import cli

    known = cli.get_command(click.Context(cli), words[0])
    if known is None:
        raise Wrong(f"mlflow has no command {words[0]!r}")
    if isinstance(known, click.Group):
        if (known := known.get_command(click.Context(known), words[1])) is None:
            raise Wrong(f"mlflow {words[0]} has no command {words[1]!r}")
        words = words[1:]
    try:
        with redirect_stdout(io.StringIO()):
            context = known.make_context(words[0], list(words[1:]))
    except click.exceptions.Exit:
        return
    except click.ClickException as error:
        raise Wrong(error.format_message()) from None
    if words[0] == "run" and (whole or context.params["entry_point"] != "main"):
        check_project(ROOT / context.params["uri"], context.params["entry_point"], context.params["param_list"])


def check_project(folder: Path, entry_point: str, given: Sequence[str]) -> None:
    """What `mlflow run folder -e entry_point -P ...` would start."""
    file = folder / "MLproject"
    if not file.is_file():
        raise Wrong(f"there is no {file}")
    entry_points = yaml.safe_load(file.read_text())["entry_points"]
    if entry_point not in entry_points:
        raise Wrong(f"no entry point {entry_point!r}; there are {', '.join(entry_points)}")
    entry = entry_points[entry_point]
    values = dict(pair.split("=", 1) for pair in given)
    declared = {name: str(details["default"]) for name, details in entry["parameters"].items()}
    words = [word.format(**{**declared, **values}) for word in shlex.split(entry["command"])]
    extra = [word for name, value in values.items() if name not in declared for word in (f"--{name}", value)]
    at = words.index("-m")
    check_trainer(words[at + 1].removeprefix("trainers."), [*words[at + 2 :], *extra])


def make_targets() -> tuple[set[str], set[str]]:
    """(all targets of the Makefile, those that run an entry point)."""
    text = (ROOT / "Makefile").read_text()
    entry_points = set(yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"])
    return entry_points | set(re.findall(r"^([a-z][\w-]*):", text, re.M)), entry_points


def check_make(words: Sequence[str]) -> None:
    """Targets are the Makefile's; ARGS of an entry point's are parameters that it takes."""
    targets, entry_points = make_targets()
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    for name in variables:
        if not re.search(rf"^{name} *[?:]?=", (ROOT / "Makefile").read_text(), re.M):
            raise Wrong(f"the Makefile has no variable {name}")
    for target in (word for word in words if "=" not in word and not word.startswith("-")):
        if target not in targets:
            raise Wrong(f"the Makefile has no target {target!r}")
        if target in entry_points:
            check_mlflow(["run", ".", "-e", target, *shlex.split(variables.get("ARGS", ""))])


def check_torchrun(words: Sequence[str]) -> None:
    """torchrun's own parser takes what stands before `-m`, the trainer's what comes behind."""
    from torch.distributed.run import get_args_parser

    at = list(words).index("-m")
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            get_args_parser().parse_args([*words[:at], "-m", words[at + 1]])
    except SystemExit:
        raise Wrong(errors.getvalue().strip().splitlines()[-1]) from None
    check_module(words[at + 1], words[at + 2 :])


def check_docker(words: Sequence[str]) -> None:
    """Files that are named exist, and a trainer's words at the end are taken by the trainer."""
    if "-f" in words and words[0] in ("build", "compose") and not (ROOT / words[list(words).index("-f") + 1]).is_file():
        raise Wrong(f"there is no {words[list(words).index('-f') + 1]}")
    if words[0] == "build" and "-f" not in words and not (ROOT / "Dockerfile").is_file():
        raise Wrong("there is no Dockerfile")
    if words[0] == "compose" and "-f" not in words and not list(ROOT.glob("compose.y*ml")):
        raise Wrong("there is no compose.yaml")
    if "-m" in words:
        at = list(words).index("-m")
        check_module(words[at + 1], words[at + 2 :])


def check_pytest(argv: Sequence[str]) -> None:
    """The files exist, and each word of -k is in the name of a test in them."""
    files, names, i = [], "", 0
    while i < len(argv):
        if argv[i] in ("-k", "-m", "-n", "-p"):
            names = argv[i + 1] if argv[i] == "-k" else names
            i += 1
        elif not argv[i].startswith("-"):
            files.append(argv[i])
        i += 1
    tests = ""
    for file in files:
        path = ROOT / file.split("::")[0]
        if not path.exists():
            raise Wrong(f"there is no {file}")
        tests += "".join(p.read_text() for p in ([path] if path.is_file() else path.rglob("test_*.py")))
    defined = re.findall(r"def (test_\w+)", tests)
    for word in re.split(r"\s+(?:or|and|not)\s+|\s+", names.strip()) if names else []:
        if not any(word.strip("()") in name for name in defined):
            raise Wrong(f"no test in {', '.join(files)} is called like {word!r}")


def check_fragment(command: Command) -> None:
    """Some entry point takes these parameters together."""
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    words = words_of(command.text)
    faults = []
    for name in entry_points:
        try:
            check_mlflow(["run", ".", "-e", name, *words])
            return
        except Wrong as fault:
            faults.append(f"{name}: {fault}")
    raise Wrong(f"no entry point takes these: {'; '.join(faults)}")


# ---------------------------------------------------------------------------------------------------------------------
# links


def anchor(heading: str) -> str:
    """The anchor that forges give a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, a number behind those that come again."""
    _, prose = blocks_of(page.read_text())
    found: set[str] = set()
    for _, line in prose:
        if match := re.match(r"#{1,6} +(.+)", line):
            name, i = anchor(match[1]), 0
            while (candidate := f"{name}-{i}" if i else name) in found:
                i += 1
            found.add(candidate)
    return found


def links_of(page: Path) -> Iterator[tuple[int, str]]:
    """(line, target) of every link and picture of a page that does not lead to the web."""
    _, prose = blocks_of(page.read_text())
    for number, line in prose:
        for match in re.finditer(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", re.sub(r"`[^`]*`", "", line)):
            target = match[1] or match[2]
            if not re.match(r"[a-z]+:", target):
                yield number, target


def check_link(page: Path, target: str) -> None:
    """The file exists, and has a heading of that anchor."""
    path, _, name = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        raise Wrong(f"{target}: there is no {path}")
    if name and (file.suffix != ".md" or name not in anchors_of(file)):
        raise Wrong(f"{target}: no heading of {path or page.name} has the anchor {name!r}")


def faults(of: Callable[[Path], Sequence[Command]], check_one: Callable[[Command], None]) -> list[str]:
    """One line for each command that is wrong: page, line, command, why."""
    found = []
    for page in PAGES:
        for command in of(page):
            try:
                check_one(command)
            except Wrong as fault:
                found.append(f"{command}\n    {fault}")
    return found
