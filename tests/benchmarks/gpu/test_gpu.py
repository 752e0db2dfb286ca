"""`python -m benchmarks.gpu`: whole on a CPU with nothing but PyTorch and NumPy, and what it writes when parts fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import eeg, images, page
from benchmarks.gpu.box import Box, Settings
from models.attention.spec import MECHANISMS
from tests.conftest import ROOT
from trainers.eeg_simclr.config import EegSimclrConfig
from trainers.eeg_transformer.config import EegTransformerConfig

# A module that is None cannot be imported.
BARE = """
import sys
for name in ("mlflow", "pydantic", "safetensors", "filelock", "PIL", "matplotlib", "sklearn", "scipy", "pandas",
             "torchvision", "mne", "optuna", "torchmetrics", "torch_mimicry", "torch_fidelity"):
    sys.modules[name] = None
from benchmarks.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_whole_script_on_a_bare_machine(tmp_path: Path) -> None:
    """Every part ends, whatever the machine's load: the time boxes are wide, the sizes tiny."""
    arguments = ["--tiny", "--minutes", "60", "--out", str(tmp_path / "gpu")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"CPU: {tmp_path / 'gpu' / 'gpu.md'}"
    found = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    assert found["device"] == "CPU"
    parts = {part["part"]: part for part in found["parts"]}
    assert list(parts) == [title for title, _, _ in gpu.PARTS]
    assert {part["ended"] for part in parts.values()} == {"done"}

    checks = parts["1. Correct"]["tables"]["Right?"]
    assert {f"attention {name}" for name in MECHANISMS} < {row["check"] for row in checks}
    assert [row for row in checks if not row["right"]] == []
    steps = parts["2. WGAN-GP at the exercise's size"]["tables"]["A WGAN-GP step"]
    assert {row["precision"] for row in steps if row["what"] == "the trainer's loop"} == {"fp32", "tf32", "bf16"}
    assert all(row["ms"] > 0 for row in steps)
    (training,) = parts["3. A real training"]["tables"].values()
    assert [row["step"] for row in training] == [1, 2, 4]
    assert (tmp_path / "gpu" / "step_000004.png").is_file()
    assert len(parts["4. EEG"]["tables"]["Updates of the EEG networks"]) == 6
    assert "delta" in {
        row["mechanism"] for row in parts["5. Attention"]["tables"]["Attention, milliseconds (bfloat16)"]
    }
    why = {found["failure"]: found["why"] for part in parts.values() for found in part["failures"]}
    assert "torch-mimicry is not installed" in why["torch-mimicry, fp32"]
    assert why["Inception, fp32, 4 images at a time"].startswith("ModuleNotFoundError")

    text = (tmp_path / "gpu" / "gpu.md").read_text()
    assert text.startswith("# Measured on CPU\n")
    assert "| critic's step | float64 |" in text
    assert not list((tmp_path / "gpu").glob("*.tmp"))
    assert not (tmp_path / "gpu" / "part.jsonl").exists()


def fails(box: Box) -> None:
    box.row("Numbers", n=1)
    box.attempt("one", lambda: 1 / 0)
    box.row("Numbers", n=2)


def dies(box: Box) -> None:
    box.row("Numbers", n=1)
    os._exit(7)


def hangs(box: Box) -> None:
    time.sleep(3600)


def test_what_fails_or_dies_is_noted_and_the_next_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", (("fails", fails, 1.0), ("dies", dies, 1.0), ("fails again", fails, 1.0)))
    assert gpu.main(["--out", str(tmp_path), "--minutes", "60"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [part["ended"] for part in found] == ["done", "ended by itself with status 7", "done"]
    assert [part["tables"]["Numbers"] for part in found] == [[{"n": 1}, {"n": 2}], [{"n": 1}], [{"n": 1}, {"n": 2}]]
    assert found[0]["failures"] == [{"failure": "one", "why": "ZeroDivisionError: division by zero"}]
    assert "- ZeroDivisionError: division by zero: one" in (tmp_path / "gpu.md").read_text()


def test_what_hangs_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    assert gpu.in_a_process("hangs", hangs, Settings(True, None, tmp_path), 0.3)["ended"] == "cut off"


def test_nothing_begins_after_the_end_of_a_box(tmp_path: Path) -> None:
    box, begun = Box(Settings(True, None, tmp_path), tmp_path / "lines", -1.0), []
    box.attempt("late", lambda: begun.append(1))
    assert begun == []
    assert page.read_part(tmp_path / "lines") == ({}, [{"failure": "late", "why": "no time was left"}])


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"table": "a", "row": {"x": 1}}\n{"table": "a", "ro')
    assert page.read_part(tmp_path / "lines") == ({"a": [{"x": 1}]}, [])


def test_the_eeg_sizes_are_those_of_the_presets() -> None:
    transformer, simclr = EegTransformerConfig(data_dir=Path()), EegSimclrConfig(data_dir=Path())
    assert {name: getattr(transformer, name) for name in eeg.TRANSFORMER} == eeg.TRANSFORMER
    assert (transformer.batch_size, transformer.window) == (eeg.BATCH, eeg.WINDOW)
    assert {name: getattr(simclr, name) for name in eeg.SIMCLR} == eeg.SIMCLR


def test_images_are_read_in_both_layouts(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(5, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "first.npy", pixels)
    np.save(tmp_path / "last.npy", pixels.transpose(0, 2, 3, 1))
    for name in ("first", "last"):
        assert torch.equal(images.load(tmp_path / f"{name}.npy"), torch.from_numpy(pixels))
    np.save(tmp_path / "grey.npy", pixels[:, 0])
    with pytest.raises(ValueError, match="needed are uint8 images"):
        images.load(tmp_path / "grey.npy")


def test_a_grid_is_a_png_that_others_read(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(256, size=(16, 3, 4, 4), dtype=np.uint8)
    images.write_png(tmp_path / "grid.png", images.grid(pixels))
    with Image.open(tmp_path / "grid.png") as image:
        read = np.asarray(image)
    assert read.shape == (8, 32, 3)
    np.testing.assert_array_equal(read[4:, 8:12], pixels[10].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--minutes", "0"], "--minutes 0: above 0"),
        (["--images", "nowhere.npy"], "--images nowhere.npy: there is no such file"),
        (["--packages", "nowhere"], "--packages nowhere: there is no such folder"),
    ],
)
def test_bad_arguments_are_refused(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        gpu.parse(argv)
    assert error.value.code == 2
    assert words in capsys.readouterr().err
