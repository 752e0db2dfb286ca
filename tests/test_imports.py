"""Imports point one way: trainers -> training -> data, models, evaluation, tracking -> common; models imports nothing
else.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "common": {"common"},
    "models": {"models"},
    "data": {"data", "common"},
    "evaluation": {"evaluation", "common"},
    "tracking": {"tracking", "common"},
    "training": {"training", "data", "models", "evaluation", "tracking", "common"},
    "trainers": {"trainers", "training", "data", "models", "evaluation", "tracking", "common"},
}
# models/ is pure torch: tensors in, tensors out
PURE = {
    "torch",
    "math",
    "re",
    "typing",
    "dataclasses",
    "collections",
    "contextlib",
    "copy",
    "functools",
    "itertools",
    "enum",
    "abc",
    "__future__",
}
# the loader of torch-mimicry's modules is the one file of models/ that looks at the disk
PURE_EXCEPT = {"mimicry.py": {"importlib", "sys", "pathlib", "types", "os"}}


# no trainer imports another, but for this one: it trains the other's network with other attention mechanisms
MAY_IMPORT_TRAINER = {"efficient_attention": {"eeg_transformer"}}


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, inside functions too: `a.b` and `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_names(path)}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no file in {package}"
    return found


# a command line, which nothing imports: `python -m tracking import` builds networks to register
MAY_IMPORT_MORE = {"tracking/__main__.py": {"training"}}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    others = {*MAY_IMPORT, "tests", "benchmarks"}
    for path in files(package):
        allowed = MAY_IMPORT[package] | MAY_IMPORT_MORE.get(path.relative_to(ROOT).as_posix(), set())
        wrong = imported_packages(path) & others - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "trainers").glob("*/__init__.py")))
def test_a_trainer_imports_no_other(folder: str) -> None:
    allowed = {folder, *MAY_IMPORT_TRAINER.get(folder, ())}
    for path in files(f"trainers/{folder}"):
        parts = [name.split(".") for name in imported_names(path)]
        wrong = {part[1] for part in parts if part[0] == "trainers" and len(part) > 1} - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for package in MAY_IMPORT for path in files(package)}
    imports = {name: {other for other in imported_names(path) if other in modules} for name, path in modules.items()}
    for name, others in imports.items():  # `from a import b` imports the module a.b; the package a alone is no circle
        others -= {name, *(other for other in others if modules[other].name == "__init__.py")}
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


def test_models_is_pure_torch() -> None:
    for path in files("models"):
        wrong = imported_packages(path) - PURE - PURE_EXCEPT.get(path.name, set()) - {"models"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_tracking_imports_mlflow() -> None:
    for package in MAY_IMPORT:
        for path in files(package):
            assert package == "tracking" or "mlflow" not in imported_packages(path), path.relative_to(ROOT)
