"""Networks as programs that run where this project is not: exported by `torch.export`, checked, and written in the
layout of MLflow's `pt2` flavour.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import torch

FLAVOUR, DATA, FILE = "mlflow.pytorch", "data", "model.pt2"


class Program:
    """A network as it is now, in eval mode on the CPU. It is exported when it is first written, and only once.

    Args:
        module: left as it is. example: an input batch of at least 2 (a batch of 1 would freeze the batch size at 1);
        its other dimensions are fixed.
    """

    def __init__(self, module: torch.nn.Module, example: np.ndarray) -> None:
        self.module, self.example = copy.deepcopy(module).to("cpu").eval(), example

    @cached_property
    def output(self) -> torch.Tensor:
        """For the example. ValueError where it is no tensor of finite numbers."""
        with torch.no_grad():
            output = self.module(torch.from_numpy(self.example))
        kind = type(self.module).__name__
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"a served model returns one tensor, this one a {type(output).__name__}")
        if not output.isfinite().all():
            raise ValueError(f"{kind}: its output for the example is not finite; it is not registered")
        return output

    @cached_property
    def content(self) -> bytes:
        """The .pt2 file. ValueError for a module that can't be traced, or only for batches of the example's length."""
        file = io.BytesIO()
        with torch.no_grad():
            try:
                exported = torch.export.export(
                    self.module, (torch.from_numpy(self.example),), dynamic_shapes=[{0: torch.export.Dim.AUTO}]
                )
                torch.export.save(exported, file)
            except RuntimeError as error:  # all that torch.export raises
                fault = str(error).strip().splitlines()[0]
                raise ValueError(f"torch.export can't trace {type(self.module).__name__}: {fault}") from error
            file.seek(0)
            _check(torch.export.load(file).module(), self.module, self.example)
        return file.getvalue()

    def write(self, folder: Path, metadata: Mapping[str, Any], packages: Sequence[str]) -> None:
        """Write the MLflow model to `folder`, which must not exist. packages: what it needs to run, as installed here.

        The files are those of `mlflow.pytorch.save_model`, whose module takes as long to import as PyTorch itself:
        Lightning comes with it, and with that SciPy and torchvision.
        """
        import mlflow.pyfunc
        from mlflow.models import Model, infer_signature
        from mlflow.models.utils import _save_example
        from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

        (folder / DATA).mkdir(parents=True)
        (folder / DATA / FILE).write_bytes(self.content)
        model = Model(signature=infer_signature(self.example, self.output.numpy()), metadata=dict(metadata))
        _save_example(model, self.example, str(folder))
        model.add_flavor("pytorch", model_data=DATA, pytorch_version=str(torch.__version__), code=None)
        mlflow.pyfunc.add_to_model(
            model,
            loader_module=FLAVOUR,
            data=DATA,
            pickle_module_name=f"{FLAVOUR}.pickle_module",
            conda_env="conda.yaml",
            python_env="python_env.yaml",
            model_config={"device": None},
        )
        model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        model.save(str(folder / "MLmodel"))
        # Stated, since to find them out MLflow starts a process for eleven seconds, and adds Lightning to them.
        needed = [f"{package}=={installed_version(package)}" for package in packages]
        _mlflow_conda_env(str(folder / "conda.yaml"), additional_pip_deps=needed, install_mlflow=False)
        (folder / "requirements.txt").write_text("\n".join(needed))
        _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))


def _check(program: torch.nn.Module, module: torch.nn.Module, example: np.ndarray) -> None:
    """Raise ValueError unless the exported program takes other batch sizes and computes what `module` does.

    `len(x)` in a forward pass freezes the batch at the example's, without a word from `torch.export`.
    """
    for batch in (example[:1], np.concatenate([example, example[:1]])):
        x = torch.from_numpy(batch)
        expected = module(x)
        try:
            output = program(x)
        except (AssertionError, RuntimeError) as error:
            fault = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{type(module).__name__} is exported for batches of {len(example)} only ({fault}): "
                "in its forward write x.shape[0] for len(x), and no int() of a shape"
            ) from error
        deterministic = torch.equal(expected, module(x))
        close = torch.allclose(output, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.abs().max())))
        if output.shape != expected.shape or (deterministic and not close):
            raise ValueError(f"{type(module).__name__}: the exported program does not compute what the module does")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the advice that exporting, saving and loading print."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("mlflow", "torch", "mlflow.pytorch"))}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
