"""Generators of others: TorchScript files and python_functions, and what is not one."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.models import infer_signature
from torch import Tensor, nn

from common.errors import InputError
from tests.running import environment
from trainers.isir_fid.calibration import check_gradient
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from training.config import preset_config
from training.generators.foreign import load_any_generator

CPU = torch.device("cpu")
NZ, SIZE = 5, 28


class Theirs(nn.Module):
    """Codes [n, 5] -> grey images [n, 1, 28, 28], times `scale`."""

    def __init__(self, scale: float = 1.0, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale, self.channels = nn.Linear(NZ, channels * SIZE * SIZE), scale, channels

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.layer(z).tanh().view(-1, self.channels, 28, 28)


def script(module: nn.Module, path: Path) -> str:
    torch.jit.script(module).save(str(path))
    return str(path)


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a store, which is that of this process."""
    monkeypatch.chdir(folder)
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    yield folder
    mlflow.set_tracking_uri(None)


def test_a_torchscript_file_makes_images_of_three_channels(tmp_path: Path) -> None:
    module = Theirs().eval()
    path = script(module, tmp_path / "g.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's advice to write other files is not for who has one
        found = load_any_generator(path, NZ, CPU)
    z = torch.randn(4, NZ)
    assert (found.image_size, found.nz, found.network.training) == (SIZE, NZ, False)
    assert torch.equal(found.network(z), module(z).expand(-1, 3, -1, -1))
    again = load_any_generator(script(module, tmp_path / "again.ts"), NZ, CPU)
    other = load_any_generator(script(Theirs(0.5), tmp_path / "other.pt"), NZ, CPU)
    assert found.fingerprint
    assert other.fingerprint not in (found.fingerprint, again.fingerprint)


def test_a_python_function_says_the_length_of_its_codes(store: Path) -> None:
    module = Theirs(channels=3).eval()

    class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
            with torch.no_grad():
                return module(torch.from_numpy(model_input)).numpy()

    codes = np.zeros((2, NZ), np.float32)
    signature = infer_signature(codes, module(torch.from_numpy(codes)).detach().numpy())
    mlflow.pyfunc.log_model(
        name="theirs",
        python_model=Served(),
        signature=signature,
        registered_model_name="theirs",
        pip_requirements=[],
    )
    found = load_any_generator("models:/theirs", None, CPU)
    z = torch.randn(4, NZ)
    assert (found.uri, found.image_size, found.nz) == ("models:/theirs/1", SIZE, NZ)
    assert torch.allclose(found.network(z), module(z), atol=1e-6)
    # It has no gradient: samplers that follow one are refused, the others are not.
    with pytest.raises(InputError, match="samplers: ex2mcmc follow the generator's gradient, and models:/theirs/1"):
        check_gradient(preset_config(IsirFidConfig, PRESETS, "quick", samplers="calibrated,ex2mcmc"), found, CPU)
    check_gradient(preset_config(IsirFidConfig, PRESETS, "quick", samplers="calibrated"), found, CPU)


def test_an_address_with_nothing_behind_it(store: Path) -> None:
    with pytest.raises(InputError, match="model absent:"):
        load_any_generator("models:/absent", None, CPU)
    with pytest.raises(InputError, match=r"g\.pt: no such file"):
        load_any_generator("g.pt", NZ, CPU)


class InTrainMode(Theirs):
    def forward(self, z: Tensor) -> Tensor:
        x = self.layer(z)
        return (x - x.mean(0)).tanh().view(-1, 1, 28, 28)


class Flat(Theirs):
    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).tanh()


class Oblong(Theirs):
    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).tanh().view(-1, 1, 14, 56)


@pytest.mark.parametrize(
    ("module", "nz", "words"),
    [
        (Theirs(), None, "does not say how long its latent codes are; give nz"),
        (Theirs(), 0, "give nz, at least 1"),
        (Theirs(), 6, "makes nothing of codes [3, 6] (RuntimeError: "),
        (Theirs(), 6, "mat1 and mat2 shapes cannot be multiplied (3x6 and 5x784)); is nz right?"),
        (Theirs(scale=255.0), NZ, "needed is [-1, 1]"),
        (Theirs(scale=float("nan")), NZ, "values from nan to nan"),
        (Theirs(channels=2), NZ, "makes [3, 2, 28, 28] of codes [3, 5], not images"),
        (Flat(), NZ, "makes [3, 784] of codes"),
        (Oblong(), NZ, "makes images [14, 56], not square ones"),
        (InTrainMode(), NZ, "makes another image of a code when others are beside it"),
    ],
)
def test_what_makes_no_images_is_refused(module: nn.Module, nz: int | None, words: str, tmp_path: Path) -> None:
    path = script(module, tmp_path / "g.pt")
    with pytest.raises(InputError) as refusal:
        load_any_generator(path, nz, CPU)
    assert words in str(refusal.value)


def test_a_file_that_is_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "g.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no TorchScript file"):
        load_any_generator(str(tmp_path / "g.pt"), NZ, CPU)
