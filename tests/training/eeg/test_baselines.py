"""The classical baselines tell about simulated people what they tell about real ones."""

from pathlib import Path

import numpy as np
import pytest

from data.eeg.load import load_eeg
from data.eeg.splits import make_folds
from training.eeg import baselines


@pytest.mark.slow
def test_on_simulated_people_they_are_about_as_good_as_on_real_ones(tmp_path: Path) -> None:
    """On real people 0.60 to 0.63, 0.75 and 0.74 to 0.77: `python -m benchmarks.eeg_simulation`."""
    data = load_eeg("simulated", tmp_path, subjects="1-24", quiet=True)
    windows, inputs = data.windows(), baselines.baseline_inputs(data, "cross_subject")
    folds = make_folds(windows, "cross_subject", n_folds=3)

    def accuracy(name: str) -> float:
        right = []
        for fold in folds:
            test = baselines.tested_trials(windows, fold)
            log_p = baselines.classical_log_probabilities(name, inputs, baselines.training_trials(windows, fold), test)
            right.append(log_p.argmax(1) == data.label[test])
        return float(np.concatenate(right).mean())

    assert 0.58 < accuracy("rule") < 0.72
    assert 0.66 < accuracy("csp_lda") < 0.80
    assert 0.68 < accuracy("tangent_lr") < 0.82
