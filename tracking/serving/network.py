"""Answers requests to a registered network: one array of inputs in, one array out.

This file is stored with the model, as `served.py`, and runs where this project is not: it imports nothing of it.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedNetwork(PythonModel):
    """The exported program behind MLflow's schema, which has checked type and shape when a request comes here."""

    def load_context(self, context: PythonModelContext) -> None:
        self.network = mlflow.pytorch.load_model(str(Path(context.artifacts["model"])))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """[n, ...] finite numbers -> [n, ...]. A refusal is an MlflowException that the server answers with status
        400.
        """
        if not len(model_input):
            raise MlflowException.invalid_parameter_value("the request has no rows: give at least one")
        finite = np.isfinite(model_input)
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(model_input), -1).all(axis=1)))
            raise MlflowException.invalid_parameter_value(
                f"{finite.size - finite.sum()} of {finite.size} input values are NaN, null or infinite (the first in "
                f"row {row}): every value must be a finite number"
            )
        with torch.no_grad():
            # As one batch: a classifier with alignment looks at all epochs of a request together.
            output = self.network(torch.from_numpy(np.ascontiguousarray(model_input))).numpy()
        if not np.isfinite(output).all():
            raise MlflowException.invalid_parameter_value(
                "the network's output is not finite for this input: its values are too large"
            )
        return output


mlflow.models.set_model(ServedNetwork())
