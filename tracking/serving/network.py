"""Answers requests to a registered network: one array of inputs in, one array out.

This file is stored with the model, as `served.py`, and runs where this project is not: it imports nothing of it.
"""

import runpy
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedNetwork(PythonModel):
    """The exported program. It checks all of a request itself, since MLflow's schema would refuse float64."""

    def load_context(self, context: PythonModelContext) -> None:
        self.network = mlflow.pytorch.load_model(str(Path(context.artifacts["model"])))
        settings = context.model_config or {}
        self.shape = [int(size) for size in settings["shape"]]
        self.most_volts = settings.get("most_volts")
        guard = runpy.run_path(context.artifacts["guard"])
        guard["guard_server"](float(settings["max_request_mb"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """[n, ...] finite numbers of any type -> [n, ...]. A refusal is an MlflowException that the server answers with
        status 400.
        """
        x = self.as_array(model_input)
        self.check_finite(x)
        self.check_volts(x)
        with torch.no_grad():
            # As one batch: a classifier with alignment looks at all epochs of a request together.
            output = self.network(torch.from_numpy(x)).numpy()
        if not np.isfinite(output).all():
            raise refusal("the network's output is not finite for this input: its values are too large")
        return output

    def as_array(self, values: Any) -> np.ndarray:
        """float32 [n, ...] of what a request holds."""
        needed = f"needed is [n, {', '.join(map(str, self.shape))}] with n of at least 1"
        try:
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
                x = np.asarray(values).astype(np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise refusal(f"the request is no array of numbers ({error}); {needed}") from None
        if x.ndim and not len(x):
            raise refusal(f"the request has no rows; {needed}")
        if list(x.shape[1:]) != self.shape or not x.ndim:
            raise refusal(f"the request has shape {list(x.shape)}; {needed}")
        return np.ascontiguousarray(x)

    def check_finite(self, x: np.ndarray) -> None:
        """Refuse values that are no numbers."""
        finite = np.isfinite(x)
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(x), -1).all(axis=1)))
            raise refusal(
                f"{finite.size - finite.sum()} of {finite.size} input values are NaN, null or infinite (the first in "
                f"row {row}): every value must be a finite number"
            )

    def check_volts(self, x: np.ndarray) -> None:
        """Refuse epochs [n, channels, samples] in another unit: their deviation is thousands of times too large."""
        if self.most_volts is None:
            return
        deviation = np.median(x.astype(np.float64).std(axis=-1), axis=-1)
        row = int(deviation.argmax())
        if deviation[row] > self.most_volts:
            raise refusal(
                f"the channels of row {row} have a standard deviation of {deviation[row]:.3g} (median), where EEG in "
                f"volts stays below {self.most_volts:g}: send volts, which are microvolts times 1e-6"
            )


def refusal(message: str) -> MlflowException:
    """What the server answers with status 400."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(ServedNetwork())
