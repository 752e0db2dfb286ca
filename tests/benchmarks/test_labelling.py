"""Labelling of people whom training did not see: what is refused before a file is read, and what a way's network
sees."""

import numpy as np
import pytest
import torch

from benchmarks.labelling import check_ways, main, sizes_of
from common.errors import InputError
from data.eeg.labelling import Recording


def test_a_person_has_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["labelling", "--data_dir", "nowhere", "--train", "1-3", "--choose", "3", "--judge", "4"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(InputError, match="share a person"):
        main()


@pytest.mark.parametrize("way", ["nothing", "local:4", "local:", "linear:9", "local:-3"])
def test_bad_ways_are_refused(way: str) -> None:
    check_ways(["none", "local", "local:9"])
    with pytest.raises(InputError, match=f"--ways: '{way}'"):
        check_ways(["none", way])


def test_a_local_way_sees_its_window_and_no_more() -> None:
    recording = Recording(1, 4, np.zeros((2, 400), np.float32), np.zeros(400, int))
    network = sizes_of("local:3", 10, [recording], 1).build(0).eval()
    x = torch.randn(1, 2, 400)
    changed = x.clone()
    changed[:, :, :10] = 5.0
    with torch.no_grad():
        moved = (network(x) - network(changed)).abs().amax((0, 2)) > 0
    # Tokens 0 to 2 hold what filters of 33 samples spread; one more is reached in each of two layers.
    assert moved[:3].all()
    assert not moved[2 + 2 + 1 :].any()
