"""Where a run ran: the commit of the code, Python, torch, the device and every installed package."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def git_state() -> dict[str, str]:
    """Tags `git.commit` and `git.dirty` of this code; the commit from GIT_COMMIT (an image without .git).

    Empty if neither is there.
    """
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    if commit is None or status is None:
        built_from = os.environ.get("GIT_COMMIT")
        return {"git.commit": built_from} if built_from else {}
    return {"git.commit": commit, "git.dirty": str(bool(status)).lower()}


def environment() -> dict[str, Any]:
    """Python, platform, torch, device, processes and the version of every installed package."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda if cuda else None,
        "gpus": torch.cuda.device_count() if cuda else 0,
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """The version of every installed package; a folder without metadata, which a broken uninstall leaves, is none."""
    versions: dict[str, str] = {}
    for found in metadata.distributions():
        # Its own `metadata` would read the long description, too, which takes ten times as long for all packages.
        text = found.read_text("METADATA") or found.read_text("PKG-INFO") or found.read_text("") or ""
        facts = HeaderParser().parsestr(text.partition("\n\n")[0])
        if (name := facts["Name"]) and (version := facts["Version"]):
            versions.setdefault(name, version)  # of two, the first on the path is the one in use
    return dict(sorted(versions.items()))


def command_line() -> str:
    """The command that started this process, as one would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec and spec.name else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _git(*arguments: str) -> str | None:
    """What git prints; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def run_tags(where_it_runs: Mapping[str, Any]) -> dict[str, str]:
    """Tags that every run has.

    Its command, the code's commit, and what it runs on (environment.json has the details).
    """
    named = {name: str(where_it_runs[name]) for name in ("python", "torch", "device", "world_size", "host")}
    command = command_line()
    return {"command": command, "mlflow.note.content": f"`{command}`", **git_state(), **named}


def usual_experiment() -> str:
    """The experiment of runs that name none: MLFLOW_EXPERIMENT_NAME, as for MLflow's own clients, else wgan-eeg."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "wgan-eeg"
