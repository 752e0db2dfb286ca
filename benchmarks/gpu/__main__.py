"""All that is to be known of this project on a GPU, in minutes. Needs nothing but PyTorch and NumPy.

    python -m benchmarks.gpu --minutes 8 --out gpu --images cache/.../pixels.npy --packages folder

Six parts, the most important first, each in a process and a time box of its own: (1) whether the fast paths are right
on the device; (2) a WGAN-GP step at the exercise's size beside torch-mimicry's; (3) a real training for a while, with
grids of images; (4) the EEG networks; (5) attention over the length of the sequence; (6) Inception. What fails is noted
with its reason, and the next part goes on; time that a part leaves goes to the later ones. gpu.json and gpu.md in --out
are written anew after each part. --images: uint8 images as .npy, such as the pixels.npy of an image cache; without, the
training is on discs. --packages: a folder with torch_mimicry and torch_fidelity where they are not installed. --tiny:
the same at sizes for a CPU, in seconds: a test of this script, not a measurement.
"""

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import attention, correct, eeg, images, inception, page, wgan
from benchmarks.gpu.box import Box, Settings

Part = Callable[[Box], None]
GRACE = 10.0
"""Seconds by which a measurement may outlast its part's box before its process is ended."""


def machine(box: Box) -> None:
    """What this runs on."""
    on = torch.cuda.get_device_properties(0) if box.on_gpu else None
    box.row(
        "Machine",
        device=on.name if on else "CPU",
        memory_GB=round(on.total_memory / 1e9, 1) if on else None,
        cuda=torch.version.cuda if on else None,
        cudnn=torch.backends.cudnn.version() if on else None,
        threads=torch.get_num_threads(),
    )


PARTS: tuple[tuple[str, Part, float], ...] = (
    ("Machine", machine, 1),
    ("1. Correct", correct.run, 20),
    ("2. WGAN-GP at the exercise's size", wgan.run, 30),
    ("3. A real training", images.run, 20),
    ("4. EEG", eeg.run, 7),
    ("5. Attention", attention.run, 17),
    ("6. Inception", inception.run, 5),
)
"""(title, what it does, its share of the time)."""


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.packages is not None:
        sys.path.insert(0, str(args.packages.resolve()))
    args.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(args.tiny, args.images, args.out)
    end = time.monotonic() + 60 * args.minutes
    facts: dict[str, Any] = {
        "device": "unknown",
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tiny": args.tiny,
        "minutes": args.minutes,
    }
    found: list[dict[str, Any]] = []
    for number, (title, part, share) in enumerate(PARTS):
        shares = sum(share for _, _, share in PARTS[number:])
        seconds = max(1.0, (end - time.monotonic()) * share / shares)
        found.append(in_a_process(title, part, settings, seconds))
        if title == "Machine":
            facts["device"] = next((row["device"] for row in found[0]["tables"].get("Machine", [])), "unknown")
        page.write(args.out, facts, found)
        last = found[-1]
        print(f"{title}: {last['seconds']:.0f} s, {len(last['failures'])} failed, {last['ended']}", flush=True)
    print(f"{facts['device']}: {args.out / 'gpu.md'}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts together")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of gpu.json, gpu.md and the grids")
    parser.add_argument("--images", type=Path, help="uint8 images [n, 3, s, s] or [n, s, s, 3], a .npy file")
    parser.add_argument("--packages", type=Path, help="folder with torch_mimicry and torch_fidelity")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: above 0")
    for name, exists in (("images", Path.is_file), ("packages", Path.is_dir)):
        path = getattr(args, name)
        if path is not None and not exists(path):
            parser.error(f"--{name} {path}: there is no such {'file' if name == 'images' else 'folder'}")
    return args


def in_a_process(title: str, part: Part, settings: Settings, seconds: float) -> dict[str, Any]:
    """Run a part apart, so that one that crashes the device, or hangs, takes no other with it.

    The process is a fork: PyTorch is not imported again. This one never touches the device, as forking needs.
    """
    lines = settings.out / "part.jsonl"
    lines.unlink(missing_ok=True)
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=measure, args=(part, settings, lines, seconds))
    process.start()
    process.join(seconds + GRACE)
    ended = "done"
    if process.is_alive():
        ended = "cut off"
        process.kill()
        process.join()
    elif process.exitcode:
        ended = f"ended by itself with status {process.exitcode}"
    tables, failures = page.read_part(lines)
    lines.unlink(missing_ok=True)
    took = time.monotonic() - began
    return {"part": title, "seconds": took, "box": seconds, "ended": ended, "tables": tables, "failures": failures}


def measure(part: Part, settings: Settings, lines: Path, seconds: float) -> None:
    """The other end of `in_a_process`."""
    box = Box(settings, lines, seconds)
    box.attempt("the part", lambda: part(box))


def commit() -> str:
    """The commit of the working tree, and whether it has changes."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")


if __name__ == "__main__":
    sys.exit(main())
