"""What a run records: MLflow behind an outbox on disk, checkpoints, and the model registry.

Only this package imports mlflow.
"""

from tracking.checkpoint import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint
from tracking.registry.models import ModelInfo, load_weights, log_model, newest_model
from tracking.run import AnyRun, Run, start_run
from tracking.silent_run import SilentRun

__all__ = [
    "AnyRun",
    "ModelInfo",
    "Run",
    "SilentRun",
    "StopRequest",
    "find_checkpoint",
    "load_checkpoint",
    "load_weights",
    "log_model",
    "newest_model",
    "save_checkpoint",
    "start_run",
]
