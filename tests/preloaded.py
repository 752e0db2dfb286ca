"""What trainers import, soon or late, and what they do first: done here once. See tests/warm.py."""

import importlib
import os
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure

import trainers
from models.gan.networks import Generator
from tracking.registry.models import log_model
from tracking.run import start_run

MODULES = (
    "IPython",  # MLflow asks whether it runs in a notebook
    "git",
    "matplotlib.backends.backend_agg",
    "mlflow.models",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "sklearn.datasets",
    "torch._dynamo",  # torch's optimisers ask for it
)
ENTRY_POINTS = ("eeg_simclr", "eeg_transformer", "efficient_attention", "fid", "isir_fid", "report", "theory", "wgan")


def rehearse() -> None:
    """One run with a figure and a model, in a store that is removed: libraries make tables when they are first used.

    No gradient is computed, which would start threads, and no random number of the global generator is drawn.
    """
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng(devices=[]):
        folder = Path(name)
        with (
            mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}),
            start_run("rehearsal", {"steps": 1}, output_dir=folder / "runs") as run,
        ):
            run.log_metrics({"loss": 1.0}, step=1)
            figure = Figure(layout="constrained")
            figure.subplots().plot([1, 2], label="loss")
            run.log_figure(figure, "figures/loss.png")
            codes = np.zeros((2, 8), np.float32)
            log_model(run, Generator(32, 8, 16), "generator", codes, registered_name="rehearsal", config={})


for name in (*MODULES, *(f"{trainers.__name__}.{entry_point}.run" for entry_point in ENTRY_POINTS)):
    importlib.import_module(name)
rehearse()
