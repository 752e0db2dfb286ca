"""What a random split of windows claims, and what it does not claim where nothing is shared."""

from pathlib import Path

import pytest

from data.eeg.leak import claimed_accuracies, main
from data.eeg.load import load_eeg


def test_labels_that_nobody_can_know_are_found_by_the_random_split_alone(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-4", runs="4,8", quiet=True)
    shuffled = claimed_accuracies(data.windows())["shuffled labels"]
    assert shuffled["random windows"] > 0.6
    assert abs(shuffled["by trial"] - 0.5) < 0.08
    assert abs(shuffled["by subject"] - 0.5) < 0.08
    apart = claimed_accuracies(data.windows(160, 0))["shuffled labels"]
    assert apart["random windows"] < shuffled["random windows"] - 0.05


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "figures" / "leak.png"
    main(["--cache_dir", str(tmp_path), "--subjects", "1", "--runs", "4,8", "--figure", str(picture)])
    text = capsys.readouterr().out
    assert "random windows" in text
    assert "by subject" not in text  # one subject cannot be split
    assert picture.stat().st_size > 5000
