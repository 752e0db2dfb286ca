"""Imports point one way: trainers -> training -> data, models, evaluation, tracking -> common; models imports nothing
else.
"""

import ast
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


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(str(node.module).split(".")[0])
    return names


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no file in {package}"
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    others = {*MAY_IMPORT, "tests", "benchmarks"}
    for path in files(package):
        wrong = imported_packages(path) & others - MAY_IMPORT[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_models_is_pure_torch() -> None:
    for path in files("models"):
        wrong = imported_packages(path) - PURE - PURE_EXCEPT.get(path.name, set()) - {"models"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_tracking_imports_mlflow() -> None:
    for package in MAY_IMPORT:
        for path in files(package):
            assert package == "tracking" or "mlflow" not in imported_packages(path), path.relative_to(ROOT)
