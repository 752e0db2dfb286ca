"""Exported programs: MLflow's own layout, written without its module, and exported once however often written."""

import subprocess
import sys
from pathlib import Path

import mlflow.pytorch
import numpy as np
import pytest
import torch
import yaml
from mlflow.models import infer_signature

from tests.conftest import ROOT
from tracking.registry.models import save_model
from tracking.registry.programs import Program
from training.generators.stored import sampler_with

EXAMPLE = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
PACKAGES = ("mlflow", "torch", "numpy")


class Images(torch.nn.Module):
    """Codes [n, 3] -> images [n, 3, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(3, 12)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.map(z).tanh().reshape(z.shape[0], 3, 2, 2)


class Rating(torch.nn.Module):
    """Images [n, 3, 2, 2] -> values [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(x.flatten(1))


def described(folder: Path) -> dict[str, object]:
    """MLmodel, without what differs each time."""
    facts = yaml.safe_load((folder / "MLmodel").read_text())
    return {name: fact for name, fact in facts.items() if name not in ("model_uuid", "utc_time_created")}


def test_the_files_are_those_that_mlflow_writes(tmp_path: Path) -> None:
    network = Images().eval()
    Program(network, EXAMPLE).write(tmp_path / "ours", {"dataset": "digits"}, PACKAGES)
    mlflow.pytorch.save_model(
        network,
        str(tmp_path / "mlflow"),
        signature=infer_signature(EXAMPLE, network(torch.from_numpy(EXAMPLE)).detach().numpy()),
        input_example=EXAMPLE,
        pip_requirements=(tmp_path / "ours" / "requirements.txt").read_text().split(),
        metadata={"dataset": "digits"},
        serialization_format="pt2",
    )
    ours, theirs = (
        {str(file.relative_to(tmp_path / side)): file for file in (tmp_path / side).rglob("*") if file.is_file()}
        for side in ("ours", "mlflow")
    )
    assert ours.keys() == theirs.keys()
    for name, file in ours.items():
        if Path(name).name not in ("MLmodel", "model.pt2"):
            assert file.read_bytes() == theirs[name].read_bytes(), name
    expected = described(tmp_path / "mlflow")
    # MLflow counts before it writes some files, and stores the size of the program as exported then.
    assert {**described(tmp_path / "ours"), "model_size_bytes": 0} == {**expected, "model_size_bytes": 0}
    x = torch.randn(7, 3)
    loaded = mlflow.pytorch.load_model(str(tmp_path / "ours"))
    torch.testing.assert_close(loaded(x), network(x))


def test_a_program_is_exported_once_however_often_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    export = torch.export.export

    def counted(module: torch.nn.Module, *args: object, **options: object) -> object:
        exported.append(type(module).__name__)
        return export(module, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.export, "export", counted)
    images = np.random.default_rng(1).standard_normal((4, 3, 2, 2)).astype(np.float32)
    rating = Rating()
    critic = Program(rating, images)
    before = rating(torch.from_numpy(images)).detach()
    with torch.no_grad():
        rating.map.bias.add_(1)  # the program is of the network as it was
    for name in ("generator", "generator_raw"):
        save_model(tmp_path / name, Images(), EXAMPLE, {}, {}, sampler_with(critic))
    save_model(tmp_path / "critic", critic, images, {}, {})
    assert exported == ["Images", "Rating", "Images"]
    for folder in ("generator/critic", "generator_raw/critic", "critic"):
        loaded = mlflow.pytorch.load_model(str(tmp_path / folder))
        torch.testing.assert_close(loaded(torch.from_numpy(images)), before)


def test_registering_imports_neither_lightning_nor_torchvision(tmp_path: Path) -> None:
    """They come with `mlflow.pytorch`, and every training would wait for them."""
    code = (
        "import sys, numpy as np, torch\n"
        "from pathlib import Path\n"
        "from tracking.registry.models import save_model\n"
        "save_model(Path(sys.argv[1]), torch.nn.Linear(3, 2), np.zeros((2, 3), np.float32), {}, {})\n"
        "print({'pytorch_lightning', 'torchvision'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
