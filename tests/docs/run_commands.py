"""Really runs the commands of README.md and docs/ that need nothing but this project: `python -m
tests.docs.run_commands`.

Each distinct command runs once (`make wgan` is `mlflow run . -e wgan`), in the order of the pages, in one scratch
folder with a store of its own; one that fails is named at the end, status 1. `--list` prints which run and which do
not, and why. CI checks every command against its parser on each change (tests/docs/test_commands.py); this takes as
long as the trainings of the pages, and is for before a release.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.docs.commands import PAGES, Command, commands_of
from tests.running import environment

NEEDS = (
    (r"\b(docker|podman)\b", "docker"),
    (
        r"preset[= ](celeba|eurosat|cifar10|physionet)|dataset[= ](celeba|eurosat|cifar10|physionet|folder)|/data/"
        r"|eegmmi|cifar10|photos\.zip|\.pth",
        "data",
    ),
    (r"features=inception|weights=|benchmarks\.fid\b", "Inception's weights"),
    (r"nnodes|nproc|max_restarts|CUDA|cuda", "GPUs, or several machines"),
    (r"http|curl|serve|psql|MLFLOW_TRACKING_URI=|postgres|optuna-dashboard", "a server"),
    (r"<|\.\.\.|\bNAME\b|\[|[0-9a-f]{32}|run_id|models:/[^ ]*/\d+", "a value of yours"),
    (r"^make (test|test-all|lint|clean|setup|ui|stack-test|services|docker-verify)\b", "an environment of its own"),
    (r"^(git|pip|apt-get|export|cd|cp|mkdir|\.) ", "a shell of yours"),
    (r"-m pytest|mlflow ui|mlflow server|launch|resume=|python3? -c", "a process of its own"),
)
"""(what a command looks like, what it needs): beside what the pages say themselves."""


def needs_of(command: Command) -> str:
    """What keeps a command from being run here; empty if nothing does."""
    if command.text.endswith(("--help", "--dry_run")):
        return ""
    return command.needs or next((what for pattern, what in NEEDS if re.search(pattern, command.text)), "")


def as_run(command: Command) -> str:
    """What is run for it: make would make an environment of its own; what it does behind that is `mlflow run`."""
    text = command.text.replace(".venv/bin/", "")
    text = re.sub(r"^make (\w+)(?: ARGS=\"(.*)\")?$", r"mlflow run . -e \1 --env-manager local \2", text).strip()
    # make's experiment, which `make report` reads, for all
    return text.replace("--env-manager local", "--env-manager local --experiment-name wgan-eeg")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--only", default="", help="regular expression for the commands to run")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of a command at most")
    parser.add_argument(
        "--folder", type=Path, help="run in this folder, made for it, and leave it; default: one that is deleted"
    )
    arguments = parser.parse_args()
    distinct: dict[str, Command] = {}
    for page in PAGES:
        for command in commands_of(page):
            if not command.in_text:
                distinct.setdefault(command.text if needs_of(command) else as_run(command), command)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        project = arguments.folder or Path(folder) / "project"
        # with .git: each run carries its commit
        shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".venv", "cache", "runs", "mlruns", "mlflow.db*"))
        variables = {**environment(project), "PATH": f"{Path(sys.executable).parent}:{environment(project)['PATH']}"}
        # a reader's shell has neither: the copy's own code, and as many threads as PyTorch takes
        del variables["PYTHONPATH"], variables["OMP_NUM_THREADS"]
        for text, command in distinct.items():
            needs = needs_of(command)
            if needs or not re.search(arguments.only, text):
                print(f"not run  {command}  ({'needs ' + needs if needs else 'not asked for'})")
                continue
            if arguments.list:
                print(f"runs     {command}")
                continue
            began = time.monotonic()
            done = subprocess.run(
                text,
                shell=True,
                cwd=project,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=arguments.timeout,
            )
            print(
                f"{'ok' if done.returncode == 0 else 'FAILED':8s} {command}  ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            if done.returncode:
                failed.append(f"{command}\n{done.stdout[-1500:]}")
    if failed:
        print("\n\n".join(["these failed:", *failed]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
