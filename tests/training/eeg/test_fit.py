"""The best epoch of a fit, where the validation windows are not of equal classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.eeg.splits import Fold
from training.eeg import fit as fit_module
from training.eeg.config import EegConfig
from training.eeg.fit import Fit
from training.processes import Processes

from .test_results import windows_of


def test_a_constant_answer_is_not_the_best_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten left and four right: always left is right in 0.71 of the windows; 0.64 with both found is better."""
    label = np.repeat([0, 1, 0, 1], [10, 10, 10, 4])
    windows = windows_of(label)
    fold = Fold("one", np.arange(20), np.arange(20, 34), np.array([], dtype=int))
    both = np.array([0] * 6 + [1] * 4 + [1, 1, 1, 0])
    answers = iter([np.zeros(14, int), both, np.zeros(14, int)])

    def answer(*_: object, **__: object) -> np.ndarray:
        return np.log(np.where(next(answers)[:, None] == np.arange(2), 0.9, 0.1))

    monkeypatch.setattr(fit_module, "predict", answer)
    config = EegConfig(batch_size=10, updates_per_epoch=2, epochs=3, augment=())
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    processes = Processes(0, 1, torch.device("cpu"))
    fit = Fit(config, network, windows, fold, processes, label)
    for _ in range(3):
        fit.run_epoch()
    assert [round(point["validation_accuracy"], 2) for point in fit.curve] == [0.71, 0.64, 0.71]
    assert fit.best_epoch == 1
    assert fit.best_point()["accuracy"] == pytest.approx((6 / 10 + 3 / 4) / 2)
    again = Fit(config, network, windows, fold, processes, label)
    again.load_state_dict(fit.state_dict())
    assert again.best_accuracy == fit.best_accuracy
