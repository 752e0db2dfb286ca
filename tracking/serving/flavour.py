"""How registered models answer requests: their `python_function` flavour in MLflow.

Each model carries a Python file of its own (MLflow's "models from code"; nothing is pickled): network.py for one array
in and one array out, sampler.py for generators. They check what MLflow's schema does not, so that a request that
cannot be answered gets one line and status 400; guard.py, beside them, does the same for what MLflow's server does
before. docs/serving.md shows requests and answers.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tracking.registry.programs import Program

SERVED_NAME, GUARD_NAME = "served.py", "guard.py"

MAX_IMAGES, MAX_WORK = 256, 8192
"""Images that one request to a generator may return, and make in all with I-SIR's particles; see docs/serving.md to
change them.
"""

MAX_REQUEST_MB = 32.0
"""Megabytes of a request: 25 epochs of 64 channels and 801 samples as JSON."""

MOST_VOLTS = 0.002
"""Standard deviation of a channel in volts that no EEG reaches; eyes and muscles stay under it."""


@dataclass(frozen=True)
class Sampler:
    """What makes a registered generator a sampler. critic, ratio: for I-SIR by the critic and by the density ratio (or
    their Programs, where they are written several times); None: without. algorithm: the file models/gan/isir.py.
    iterations: those of sampler=calibrated, if a request names none.
    """

    critic: torch.nn.Module | Program | None
    algorithm: Path
    ratio: torch.nn.Module | Program | None = None
    iterations: int = 5

    @property
    def raters(self) -> dict[str, torch.nn.Module | Program]:
        """What rates images, by the name of its folder in the model."""
        found = {"critic": self.critic, "density_ratio": self.ratio}
        return {name: network for name, network in found.items() if network is not None}


def serve_by_network(folder: Path, shape: Sequence[int], in_volts: bool) -> None:
    """Let the pt2 model in `folder`, whose inputs are [n, *shape], be served by tracking/serving/network.py.

    in_volts: the inputs are epochs in volts, and other units are refused.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = _add_flavour(
        folder, "network.py", {"model": "."}, {"shape": list(shape), "most_volts": MOST_VOLTS if in_volts else None}
    )
    # MLflow compares types exactly and would refuse float64, which NumPy and MNE give: network.py checks instead.
    inputs = Schema([TensorSpec(np.dtype("O"), (-1,))])
    model.signature = ModelSignature(inputs=inputs, outputs=model.signature.outputs)
    model.metadata = {**(model.metadata or {}), "input": {"shape": [-1, *shape], "dtype": "float32"}}
    model.save(str(folder / "MLmodel"))


def serve_by_sampler(folder: Path, sampler: Sampler, nz: int, image_shape: Sequence[int]) -> None:
    """Let the generator in `folder`, with what rates its images in folders of their own, be served by
    tracking/serving/sampler.py.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.models.utils import _save_example
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array

    shutil.copyfile(sampler.algorithm, folder / "isir.py")
    raters = {name: name for name in sampler.raters}
    settings = {"nz": nz, "max_images": MAX_IMAGES, "max_work": MAX_WORK, "iterations": sampler.iterations}
    model = _add_flavour(folder, "sampler.py", {"model": ".", "isir": "isir.py", **raters}, settings)
    parameters = [
        ("seed", "long", None),
        ("output", "string", "uint8"),
        ("sampler", "string", "critic"),
        ("isir_iterations", "long", 0),
        ("n_particles", "long", 10),
        ("beta", "double", 1.0),
        ("weights", "string", "importance"),
    ]
    model.signature = ModelSignature(
        # Numbers of any type: MLflow would cut n = 2.5 to 2 and refuse codes that are whole numbers; sampler.py checks
        # them.
        inputs=Schema(
            [ColSpec(AnyType(), "n", required=False), ColSpec(Array(Array(AnyType())), "codes", required=False)]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *image_shape))]),
        params=ParamSchema([ParamSpec(*parameter) for parameter in parameters]),
    )
    example = {name: default for name, _, default in parameters if default is not None}
    _save_example(model, ({"n": 4}, {"seed": 0, **example}), str(folder))
    model.save(str(folder / "MLmodel"))


def _add_flavour(folder: Path, code: str, files: Mapping[str, str], settings: Mapping[str, Any]) -> Any:
    """Replace the python_function flavour of the model in `folder`; returns its mlflow Model."""
    import mlflow.pyfunc
    from mlflow.models import Model

    shutil.copyfile(Path(__file__).with_name(code), folder / SERVED_NAME)
    shutil.copyfile(Path(__file__).with_name(GUARD_NAME), folder / GUARD_NAME)
    files = {**files, "guard": GUARD_NAME}
    settings = {**settings, "max_request_mb": MAX_REQUEST_MB}
    model = Model.load(str(folder / "MLmodel"))
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="mlflow.pyfunc.model",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config=dict(settings),
        model_code_path=SERVED_NAME,
        artifacts={name: {"path": path, "uri": path} for name, path in files.items()},
        streamable=False,
    )
    model.save(str(folder / "MLmodel"))
    return model
