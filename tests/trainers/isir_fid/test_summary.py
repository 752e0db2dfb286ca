"""The summary says what the figures say, also where they are bad."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import InputError
from evaluation.calibration import Calibration
from evaluation.features import Features
from models.gan.isir import Chains
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from trainers.isir_fid.samplers import Difference, Findings, SamplerResult
from trainers.isir_fid.summary import summarise, verdict
from training.config import parse_config, preset_config


def sampled(fd: float, squared_norm: float = 6.0, ess: float = 5.0) -> SamplerResult:
    curves = {"ess": [ess], "moved": [0.5], "squared_norm": [squared_norm]}
    value = torch.tensor([0.5, -0.5]).repeat(5)
    chains = Chains(z=torch.ones(10, 6), value=value, curves=curves, kept={}, images=30)
    scores = {"fd_digits": fd, "kd_digits": 0.1, "kd_digits_se": 0.01, "precision": 0.4, "recall": 0.5}
    held_out = {"fd_digits": fd + 0.5}
    return SamplerResult(chains, Features(torch.ones(10, 2)), scores, seconds=2.0, held_out=held_out)


JUDGED = Calibration(auc=0.8, slope=1.1, log_loss=0.55, scaled_log_loss=0.5, reliability=())


def write(
    differences: dict[str, tuple[float, float, float]],
    held_out: dict[str, tuple[float, float, float]] | None = None,
    calibrations: dict[str, Calibration] | None = None,
    dim: int = 64,
    **samplers: SamplerResult,
) -> str:
    """The summary; held_out: None: as differences."""
    evaluation: Any = SimpleNamespace(
        config=preset_config(IsirFidConfig, PRESETS, "quick"),
        headline="calibrated",
        extractor=SimpleNamespace(score="fd_digits", kernel_score="kd_digits", dim=dim),
        described="digits, split train",
        reference=SimpleNamespace(rows=range(1442)),
        held_out=SimpleNamespace(rows=range(355), images=SimpleNamespace(split="test", source="digits")),
    )
    found = Findings(
        plain=sampled(8.0),
        samplers=samplers,
        differences={name: Difference(*values) for name, values in differences.items()},
        held_out_differences={name: Difference(*values) for name, values in (held_out or differences).items()},
        sweeps={
            "n_particles": [{"n_particles": 10, "fd_digits": 6.5}],
            "beta": [{"beta": 0.1, "fd_digits": 7.5}, {"beta": 1.0, "fd_digits": 6.5}],
        },
    )
    return summarise(evaluation, found, calibrations or {"density_ratio": JUDGED})


def test_a_gain_is_said_with_its_size() -> None:
    text = write({"calibrated": (-2.0, -3.0, -1.0)}, {"calibrated": (-1.5, -2.5, -0.5)}, calibrated=sampled(6.0))
    assert "**It helped**: calibrated is below plain sampling on both references, with intervals below zero." in text
    assert "fd_digits 8 -> 6 (-25.0 %): better than plain sampling; held out: better than plain sampling." in text
    row = "| calibrated | 6 | -2 (-3 to -1) | 6.5 | -1.5 (-2.5 to -0.5) | 0.1 (0.01) | 0.400 | 0.500 | 3 | 200.00 |"
    assert row in text
    assert "| plain | 8 |  | 8.5 |  | 0.1 (0.01) | 0.400 | 0.500 | 3 | 200.00 |" in text
    assert "for calibrated have a standard deviation of 0.527" in text  # sqrt(10 / 9) / 2
    assert "lowest fd_digits 6.5 at 1; all: 0.1: 7.5, 1: 6.5." in text
    assert "n_particles" not in text  # one value is no sweep
    assert "Held out: 355 images of digits that neither generator nor critic nor density ratio has seen." in text


def test_a_gain_on_one_reference_alone_is_none() -> None:
    text = write({"calibrated": (-2.0, -3.0, -1.0)}, {"calibrated": (-0.2, -1.0, 0.5)}, calibrated=sampled(6.0))
    assert "**It did not help**: calibrated is not shown to be below plain sampling on both references." in text


def test_intervals_from_few_images_are_called_too_narrow() -> None:
    difference = {"calibrated": (-2.0, -3.0, -1.0)}
    assert "too narrow" not in write(difference, calibrated=sampled(6.0))  # 1,000 images, 64 dimensions
    assert "ten images for each of the 128 feature dimensions" in write(difference, dim=128, calibrated=sampled(6.0))


def test_fewer_images_than_dimensions_are_told() -> None:
    difference = {"calibrated": (-2.0, -3.0, -1.0)}
    assert "Too few images" not in write(difference, dim=354, calibrated=sampled(6.0))
    text = write(difference, dim=355, calibrated=sampled(6.0))  # as many as are held out
    assert "**Too few images for a Fréchet distance** in 355 dimensions: fd_digits is mostly bias." in text
    assert "Read kd_digits" in text


def test_what_the_others_did_is_said() -> None:
    text = write(
        {"calibrated": (-2.0, -3.0, -1.0), "importance": (0.1, -1.0, 1.0), "density": (3.0, 2.0, 4.0)},
        calibrated=sampled(6.0),
        importance=sampled(8.1),
        density=sampled(11.0, squared_norm=3.0),
    )
    assert (
        "The others: importance no difference that is shown on all references; density worse than plain sampling. "
        "These are 3 tests, one for each sampler: one interval alone is weak evidence." in text
    )


@pytest.mark.parametrize(
    ("squared_norm", "words"),
    [
        (3.0, "and z became shorter: their change of score is not the critic's doing alone"),
        (7.0, "but here z did not become shorter"),
    ],
)
def test_what_became_of_z_is_said(squared_norm: float, words: str) -> None:
    text = write(
        {"importance": (-0.1, -1.0, 0.8), "density": (3.0, 2.0, 4.0)},
        importance=sampled(7.9),
        density=sampled(11.0, squared_norm),
    )
    assert f"Mean |z|^2: plain 6.0, importance 6.0, density {squared_norm}" in text
    assert words in text


def test_weights_that_do_nothing_or_everything_are_named() -> None:
    nothing, everything = (write({"calibrated": (0.0, -1.0, 1.0)}, calibrated=sampled(8.0, ess=e)) for e in (10.9, 1.1))
    assert "nearly even" in nothing
    assert "takes the particle rated highest" in everything


def test_a_critic_that_leads_away_is_named() -> None:
    lost = replace(JUDGED, slope=-0.4, auc=0.42)
    text = write({"calibrated": (0.0, -1.0, 1.0)}, None, {"critic": lost}, calibrated=sampled(8.0))
    assert "| critic | 0.420 | -0.40 | 0.550 | 0.500 |" in text
    assert "The critic rates generated images above real ones: its weights lead away from the data." in text


def test_verdicts() -> None:
    assert verdict(Difference(-1.5, -2, -1)).startswith("better")
    assert verdict(Difference(1.5, 1, 2)).startswith("worse")
    assert verdict(Difference(0, -1, 1)).startswith("no difference")


def test_lists_on_the_command_line() -> None:
    config = parse_config(
        IsirFidConfig,
        PRESETS,
        ["--samplers", "importance, mala", "--sweep_beta", "none", "--sweep_particles", "2"],
        "isir_fid",
    )
    assert (config.samplers, config.sweep_beta, config.sweep_particles) == (("importance", "mala"), (), (2,))
    for argv, words in (
        (["--samplers", "importance,gibbs"], "samplers: gibbs; allowed are calibrated, importance, density, ex2mcmc"),
        (["--samplers", "none"], "samplers: none given"),
        (["--sweep_particles", "0"], "a number of particles below 1"),
    ):
        with pytest.raises(InputError, match=words):
            parse_config(IsirFidConfig, PRESETS, argv, "isir_fid")
