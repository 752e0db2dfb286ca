"""Functions are short enough to be read at once. (ruff holds their complexity.)"""

import ast

import pytest

from tests.conftest import ROOT
from tests.test_imports import MAY_IMPORT, files

LONGEST = 60


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_function_is_longer_than_a_screen(package: str) -> None:
    for path in files(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert length <= LONGEST, f"{where}: {node.name} has {length} lines, at most {LONGEST} are allowed"
