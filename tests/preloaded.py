"""What trainers import, soon or late: imported here once, and nothing else done. See tests/warm.py."""

import importlib

import trainers

MODULES = (
    "matplotlib.backends.backend_agg",
    "mlflow.models",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",  # torch's optimisers ask for it
)
ENTRY_POINTS = ("eeg_simclr", "eeg_transformer", "efficient_attention", "fid", "isir_fid", "report", "theory", "wgan")

for name in (*MODULES, *(f"{trainers.__name__}.{entry_point}.run" for entry_point in ENTRY_POINTS)):
    importlib.import_module(name)
