"""Figures are drawn without pyplot."""

import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import matplotlib
matplotlib.use("svg")  # as a notebook has its own
import evaluation.figures, trainers.report.figures, trainers.theory.figures
print(matplotlib.get_backend())
"""


def test_the_backend_of_whoever_imports_them_stays() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("svg\n", 0), done.stderr
