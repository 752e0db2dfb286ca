"""Answers requests to a registered generator: a number of images or latent codes in, images out.

I-SIR corrects the samples if a request asks for it. This file is stored with the model, as `served.py`, and runs where
this project is not: it imports nothing of it. The sampler itself is models/gan/isir.py, stored beside it as `isir.py`.
"""

import base64
import importlib.util
import io
import math
import runpy
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image
from torch import Tensor

CHUNK = 64
"""Images made at once: a long request takes longer, not more memory."""

OUTPUTS = ("uint8", "float", "png")
SAMPLERS = ("critic", "calibrated")
WEIGHTS = ("importance", "density")


class ServedSampler(PythonModel):
    """The exported programs of generator and critic, and the sampler between them."""

    def load_context(self, context: PythonModelContext) -> None:
        self.generator = load_program(context.artifacts["model"])
        self.critic, self.ratio = (
            load_program(context.artifacts[name]) if name in context.artifacts else None
            for name in ("critic", "density_ratio")
        )
        self.isir = import_file(Path(context.artifacts["isir"]))
        settings = context.model_config or {}
        runpy.run_path(context.artifacts["guard"])["guard_server"](float(settings["max_request_mb"]))
        self.nz, self.max_images, self.max_work, self.iterations = (
            int(settings[key]) for key in ("nz", "max_images", "max_work", "iterations")
        )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray | list[str]:
        """One row with `n` or `codes` -> images [n, 3, S, S], uint8 or float32 in [-1, 1], or n PNG files in base64.

        A refusal is an MlflowException that the server answers with status 400.
        """
        settings = dict(params or {})
        n, codes = self.request(model_input)
        self.check_settings(settings)
        if settings["sampler"] == "calibrated" and not settings["isir_iterations"]:
            settings["isir_iterations"] = self.iterations
        self.check_work(n, settings["isir_iterations"], settings["n_particles"])
        codes = self.latent_codes(n, codes, settings)
        with torch.no_grad():
            images = torch.cat([self.generator(part) for part in codes.split(CHUNK)])
        if not images.isfinite().all():
            raise refusal("the generator's images are not finite for these codes: their values are too large")
        if settings["output"] == "float":
            return images.numpy()
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        return pixels if settings["output"] == "uint8" else [png(image) for image in pixels]

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Refuse a parameter outside its range."""
        missing = [name for name, value in settings.items() if value is None and name != "seed"]
        if missing:
            raise refusal(f"{', '.join(missing)}: null; leave it out, or give a value")
        iterations, particles = settings["isir_iterations"], settings["n_particles"]
        if not math.isfinite(settings["beta"]):
            raise refusal(f"beta={settings['beta']}: it must be a finite number")
        for name, allowed in (("output", OUTPUTS), ("sampler", SAMPLERS), ("weights", WEIGHTS)):
            if settings[name] not in allowed:
                raise refusal(f"{name}={settings[name]!r}: allowed are {', '.join(allowed)}")
        if iterations < 0 or particles < 1:
            raise refusal(f"isir_iterations={iterations} must be at least 0 and n_particles={particles} at least 1")
        seed = settings["seed"]
        if seed is not None and not 0 <= seed < 2**63:
            raise refusal(f"seed={seed} must be at least 0 and below 2**63")

    def check_work(self, n: int, iterations: int, particles: int) -> None:
        """Refuse a request for more images than the server makes at a time."""
        n_made = n * (1 + iterations * particles)
        if n > self.max_images or n_made > self.max_work:
            raise refusal(
                f"{n} images with isir_iterations={iterations} and n_particles={particles} are {n_made} images to "
                f"make; allowed are {self.max_images} to return and {self.max_work} to make: ask for fewer at a time"
            )

    def latent_codes(self, n: int, codes: Tensor | None, settings: dict[str, Any]) -> Tensor:
        """The codes [n, nz] to generate from: those of the request, or drawn here, by I-SIR if it is asked for."""
        random = torch.Generator()
        random.manual_seed(settings["seed"]) if settings["seed"] is not None else random.seed()
        if not settings["isir_iterations"]:
            return torch.randn(n, self.nz, generator=random) if codes is None else codes
        if codes is not None:
            raise refusal("I-SIR goes with n, not with codes: the chains start from their own draws")
        calibrated = settings["sampler"] == "calibrated"
        rater = self.ratio if calibrated else self.critic
        if rater is None:
            raise refusal(
                "sampler=calibrated: this generator was registered without a density ratio; serve "
                "models:/wgan-sampler@latest-good, which isir_fid registers"
                if calibrated
                else "isir_iterations: this generator was registered without a critic; leave it 0"
            )
        try:
            return self.isir.I_SIR(
                N_i=settings["isir_iterations"],
                N_s=n,
                N_p=settings["n_particles"],
                n_z=self.nz,
                D=rater,
                G=self.generator,
                weights="importance" if calibrated else settings["weights"],
                beta=settings["beta"],
                generator=random,
            )
        except ValueError as error:
            raise refusal(str(error)) from None

    def request(self, rows: pd.DataFrame) -> tuple[int, Tensor | None]:
        """(number of images, their codes [n, nz] where they are given)."""
        if len(rows) > 1:
            raise refusal(f'{len(rows)} rows: a request has one, {{"n": 16}} or {{"codes": [[...], ...]}}')
        cells = rows.iloc[0].items() if len(rows) else ()
        row = {name: value for name, value in cells if value is not None and not is_nan(value)}
        if len(row) != 1 or not row.keys() <= {"n", "codes"}:
            raise refusal(
                f"give either n, a number of images, or codes, [n][{self.nz}] numbers; given: "
                f"{sorted(row) or 'neither'} (null and NaN count as not given)"
            )
        if "n" in row:
            number = row["n"]
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
                raise refusal(f"n={number!r}: a whole number of images, at least 1")
            return int(number), None
        try:
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
                codes = np.array([np.asarray(code, dtype=np.float32) for code in row["codes"]])
        except (TypeError, ValueError, OverflowError):
            raise refusal(f"codes: [n][{self.nz}] numbers are needed, rows of one length") from None
        if codes.ndim != 2 or codes.shape[1] != self.nz:
            raise refusal(f"codes: shape {list(codes.shape)}; needed is [n, {self.nz}] with n of at least 1")
        if not np.isfinite(codes).all():
            raise refusal("codes: a value is NaN, null or infinite; every value must be a finite number")
        return len(codes), torch.from_numpy(codes)


def is_nan(value: Any) -> bool:
    """Whether pandas put NaN where a request had nothing."""
    return isinstance(value, float) and math.isnan(value)


def refusal(message: str) -> MlflowException:
    """What the server answers with status 400."""
    return MlflowException.invalid_parameter_value(message)


def png(image: np.ndarray) -> str:
    """uint8 [3, S, S] -> a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def load_program(folder: str) -> Callable[[Tensor], Tensor]:
    """The exported program of an MLflow model: as a function, since as a module it says that it is in train mode."""
    program = mlflow.pytorch.load_model(folder)
    return lambda x: program(x)


def import_file(path: Path) -> ModuleType:
    """The module in `path`, under a name of its own: two models with different versions of it can live in one
    process.
    """
    name = f"isir_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


mlflow.models.set_model(ServedSampler())
