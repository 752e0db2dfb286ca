"""What every trainer computes in a tiny configuration, for comparing two checkouts: a change of form must change no
figure.

    python -m tests.same_results record before.json            # on the one checkout
    python -m tests.same_results record after.json             # on the other
    python -m tests.same_results compare before.json after.json

A record holds the resolved parameters of every entry point and preset (`--dry_run`), and of a tiny run of each trainer,
with one
thread: every metric's points, and a SHA-256 over the tensors of its checkpoint and of each model that it registered.
Times are left out. `compare` ends with status 1 where anything differs; names of artifacts that came or went are
listed, and are no fault.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.running import client, command, environment, runs

EEG = {
    "subjects": "1-3",
    "runs": "4,8",
    "n_folds": 3,
    "epochs": 2,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 8,
    "n_layers": 1,
    "updates_per_epoch": 1,
}

TINY_RUNS: list[tuple[str, dict[str, object]]] = [
    (
        "wgan",
        {
            "image_size": 32,
            "ngf": 16,
            "ndf": 16,
            "nz": 8,
            "batch_size": 8,
            "steps": 24,
            "log_every": 5,
            "sample_every": 10,
            "checkpoint_every": 7,
            "n_samples": 4,
        },
    ),
    ("fid", {"n_images": 200, "n_sizes": 3}),
    (
        "isir_fid",
        {
            "n_images": 70,
            "n_iterations": 2,
            "n_particles": 3,
            "n_sweep": 70,
            "n_ratio": 100,
            "bootstrap": 20,
            "sweep_particles": "1,3",
            "sweep_beta": "0.1",
            "mala_steps": 2,
        },
    ),
    ("eeg_transformer", {**EEG, "network": "windows"}),
    (
        "eeg_simclr",
        {
            "pretext": "channel",
            "subjects": "1-3",
            "runs": "4",
            "overlap": 0,
            "epochs": 1,
            "frozen_epochs": 2,
            "updates_per_epoch": 1,
            "pretrain_epochs": 3,
            "pretrain_batch": 64,
            "kernels": "8,4,2,4",
            "width": 0.02,
            "head_width": 0.02,
            "label_fractions": "0.2,1",
            "tau_sweep": "0.05,0.5",
        },
    ),
    (
        "efficient_attention",
        {
            **EEG,
            "epochs": 1,
            "mechanisms": "softmax,linear,none",
            "lengths": "5,256",
            "rounds": 1,
            "recall_pairs": "4",
            "recall_steps": 5,
            "label_patches": "40",
            "label_mechanisms": "sdpa,none",
            "label_exact_tokens": 200,
            "label_epochs": 1,
            "stream_seconds": 20,
        },
    ),
    (
        "theory",
        {
            "theta_star": 2,
            "offsets": "0,0.5",
            "sigmas": "0.3,0.03",
            "n_samples": 50,
            "width": 16,
            "steps": 60,
            "batch_size": 32,
            "theta_steps": 20,
            "n_chains": 100,
            "n_iterations": 3,
            "toys": "moons",
            "toy_steps": 10,
            "toy_points": 30,
        },
    ),
    (
        "tune",
        {
            "n_trials": 3,
            "n_best": 1,
            "n_seeds": 1,
            "n_workers": 1,
            "pruner": "none",
            "final": "steps=10",
            "fixed": "steps=8, batch_size=8, nz=8, sample_every=8, checkpoint_every=2, n_samples=4",
            "space": "gp_scale=log:0.1..100, lr_critic=log:0.0001..0.002",
        },
    ),
    ("report", {}),
]
"""In this order, in one folder: fid and isir_fid measure wgan's generator, report gathers all."""

MEASURED_TIME = re.compile(
    r"second|millisecond|_ms|per_s|speed|megabytes|ratio|duration|exponent|crossover|latency|faster|rss"
)
"""Metrics that differ from one run to the next."""


def presets() -> Iterator[tuple[str, str]]:
    """(entry point, preset) of all that MLproject declares."""
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    exercise = {"wgan": "celeba", "fid": "celeba", "isir_fid": "celeba"}
    exercise |= dict.fromkeys(("eeg_transformer", "eeg_simclr", "efficient_attention"), "physionet")
    for name in entry_points:
        yield name, "quick"
        if name in exercise:
            yield name, exercise[name]


def dry_run(entry_point: str, preset: str) -> dict[str, Any]:
    """The resolved parameters, as the command line prints them; quick is the preset if none is given."""
    given = {} if preset == "quick" else {"preset": preset}
    words = [*command(entry_point, **given), "--dry_run"]
    done = subprocess.run(words, env=environment(ROOT), cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in a nest of dicts and lists."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from tensors(item, f"{path}/{index}")


def digest(value: Any) -> str:
    """SHA-256 over the bytes of all tensors in a nest, in the order of their bytes: where they stand in the nest is no
    matter.
    """
    parts = [
        hashlib.sha256(t.detach().contiguous().flatten().view(torch.uint8).numpy()).digest()
        for _, t in tensors(value)
        if t.numel()
    ]
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def record_run(folder: Path, run: Any, known: set[str]) -> dict[str, Any]:
    """What one run left: metrics, parameters, weights, names of artifacts."""
    run_id = run.info.run_id
    store = client(folder)
    points = {
        name: sorted((p.step, p.value) for p in store.get_metric_history(run_id, name))
        for name in sorted(run.data.metrics)
        if not MEASURED_TIME.search(name)
    }
    weights: dict[str, Any] = {}
    checkpoint = folder / "runs" / run_id / "checkpoint.pt"
    if checkpoint.exists():
        weights["checkpoint"] = digest(torch.load(checkpoint, weights_only=True))
    # Sorted by digest: the paths hold random identities.
    files = sorted(set(map(str, (folder / "mlruns").glob("**/*.safetensors"))) - known)
    known.update(files)
    weights["models"] = sorted(digest(load_file(file)) for file in files)
    artifacts: list[str] = []
    folders = [""]
    while folders:
        for item in store.list_artifacts(run_id, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
            else:  # MLflow puts a time and an identity into an image's name
                artifacts.append(re.sub(r"\+timestamp\+\d+\+[0-9a-f-]{36}", "", item.path))
    return {
        "status": run.info.status,
        "params": dict(sorted(run.data.params.items())),
        "metrics": points,
        "weights": weights,
        "artifacts": sorted(artifacts),
    }


def record(out: Path, only: list[str]) -> None:
    """Run everything and write the record."""
    result: dict[str, Any] = {"dry_runs": {}, "runs": {}}
    for name, preset in presets():
        if not only or name in only:
            result["dry_runs"][f"{name} {preset}"] = dry_run(name, preset)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known: set[str] = set()
        seen: set[str] = set()
        for entry_point, parameters in TINY_RUNS:
            if only and entry_point not in only:
                continue
            print(entry_point, flush=True)
            done = subprocess.run(
                command(entry_point, **parameters), cwd=folder, env=environment(folder), capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{entry_point} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            for number, run in enumerate(r for r in runs(folder) if r.info.run_id not in seen):
                seen.add(run.info.run_id)
                result["runs"][f"{entry_point} {number}"] = record_run(folder, run, known)
    out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """A line for each value that is not the same, paths and identities of runs aside."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            if key == "artifacts":
                gone, new = set(before[key]) - set(after[key]), set(after[key]) - set(before[key])
                if gone or new:
                    print(f"note: {path}: artifacts gone {sorted(gone)}, new {sorted(new)}")
            elif key not in before or key not in after:
                yield f"{path}/{key}: only {'after' if key not in before else 'before'}"
            else:
                yield from differences(before[key], after[key], f"{path}/{key}")
    elif before != after and "/weights/" not in path and not re.search(r"[0-9a-f]{32}", f"{before}{after}"):
        yield f"{path}: {str(before)[:150]} -> {str(after)[:150]}"
    elif before != after and "/weights/" in path:
        yield f"{path}: other weights"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--only", nargs="*", default=[], help="entry points; all without it")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.out, arguments.only)
        return 0
    before, after = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
    found = list(differences(before, after))
    print("\n".join(found) or "the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
