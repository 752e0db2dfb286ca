"""A run that records nothing, for the processes of a distributed training other than rank 0."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tracking.registry.evaluations import Evaluation
from tracking.resuming import CHECKPOINT_NAME


class SilentRun:
    """Has the methods of a Run and records nothing."""

    run_id = ""
    resumed = False

    def __init__(self, output_dir: Path = Path("runs")) -> None:
        self.folder = output_dir

    @property
    def checkpoint_path(self) -> Path:
        """A path that is never written; rank 0 tells the others where its checkpoint is."""
        return self.folder / CHECKPOINT_NAME

    def store(self) -> str:
        """Nothing is recorded anywhere."""
        return ""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Records nothing."""

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Records nothing."""

    def log_figure(self, figure: Any, path: str) -> None:
        """Records nothing."""

    def log_text(self, text: str, path: str) -> None:
        """Records nothing."""

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Records nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Records nothing."""

    def log_checkpoint(self) -> None:
        """Records nothing."""

    def log_data(self, name: str, fingerprint: str, details: Mapping[str, Any], context: str = "training") -> None:
        """Records nothing."""

    def log_evaluations(self, uri: str, evaluations: Sequence[Evaluation], step: int = 0) -> None:
        """Records nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Records nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Records nothing."""

    def backlog(self) -> str:
        """Nothing waits."""
        return ""

    def restore(self, backlog: str) -> None:
        """Records nothing."""

    def deliver(self, patience: float = 0.0, limit: float = math.inf) -> bool:
        """Nothing is left to deliver."""
        return True

    def finish(self, status: str = "FINISHED") -> bool:
        """Nothing is left to deliver."""
        return True

    def end(self, error: BaseException | None) -> None:
        pass

    def url(self) -> str:
        """No page."""
        return ""

    def __enter__(self) -> "SilentRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Records nothing."""
