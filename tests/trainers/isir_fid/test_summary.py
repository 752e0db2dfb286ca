"""The summary says what the figures say, also where they are bad."""

import pytest
import torch

from common.errors import InputError
from evaluation.features import Features
from models.gan.isir import Chains
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from trainers.isir_fid.samplers import Difference, SamplerResult
from trainers.isir_fid.summary import summarise, verdict
from training.config import parse_config, preset_config


def sampled(fd: float, squared_norm: float = 6.0, ess: float = 5.0) -> SamplerResult:
    curves = {"ess": [ess], "moved": [0.5], "squared_norm": [squared_norm]}
    value = torch.tensor([0.5, -0.5]).repeat(5)
    chains = Chains(z=torch.ones(10, 6), value=value, curves=curves, kept={}, images=30)
    scores = {"fd_digits": fd, "kd_digits": 0.1, "kd_digits_se": 0.01, "precision": 0.4, "recall": 0.5}
    return SamplerResult(chains, Features(torch.ones(10, 2)), scores, 2.0)


def write(differences: dict[str, tuple[float, float, float]], **samplers: SamplerResult) -> str:
    return summarise(
        config=preset_config(IsirFidConfig, PRESETS, "quick"),
        score="fd_digits",
        kernel_score="kd_digits",
        reference="digits, split train",
        plain=sampled(8.0),
        samplers=samplers,
        differences={name: Difference(*values) for name, values in differences.items()},
        sweeps={"beta": [{"beta": 0.1, "fd_digits": 7.5}, {"beta": 1.0, "fd_digits": 6.5}]},
    )


def test_a_gain_is_said_with_its_size() -> None:
    text = write({"importance": (-2.0, -3.0, -1.0)}, importance=sampled(6.0))
    assert "fd_digits 8 -> 6 (-25.0 %): better than plain sampling" in text
    assert "It helped with: importance.\n" in text
    assert "| importance | 6 | -2 (-3 to -1) | 0.1 (0.01) | 0.400 | 0.500 | 3 | 200.00 |" in text
    assert "| plain | 8 |  | 0.1 (0.01) | 0.400 | 0.500 | 3 | 200.00 |" in text
    assert "have a standard deviation of 0.527 over plain samples" in text  # sqrt(10 / 9) / 2
    assert "lowest fd_digits 6.5 at 1; all: 0.1: 7.5, 1: 6.5." in text


def test_of_several_samplers_one_interval_below_zero_is_called_weak_evidence() -> None:
    text = write(
        {"importance": (-2.0, -3.0, -1.0), "mala": (0.1, -1.0, 1.0)}, importance=sampled(6.0), mala=sampled(8.1)
    )
    assert "It helped with: importance. 2 samplers are as many tests: one such interval alone is weak evidence." in text


@pytest.mark.parametrize(
    ("squared_norm", "words"),
    [
        (3.0, "and z became shorter: their change of score is not the critic's doing alone"),
        (7.0, "but here z did not become shorter"),
    ],
)
def test_no_gain_is_said_plainly_and_what_became_of_z(squared_norm: float, words: str) -> None:
    text = write(
        {"importance": (-0.1, -1.0, 0.8), "density": (3.0, 2.0, 4.0)},
        importance=sampled(7.9),
        density=sampled(11.0, squared_norm),
    )
    assert "no difference that these images show" in text
    assert "worse than plain sampling" in text
    assert "**It did not help**" in text
    assert f"Mean |z|^2: plain 6.0, importance 6.0, density {squared_norm}" in text
    assert words in text


def test_weights_that_do_nothing_or_everything_are_named() -> None:
    assert "nearly even" in write({"importance": (0.0, -1.0, 1.0)}, importance=sampled(8.0, ess=10.9))
    assert "the critic's favourite" in write({"importance": (0.0, -1.0, 1.0)}, importance=sampled(8.0, ess=1.1))


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
        (["--samplers", "importance,gibbs"], "samplers: gibbs; allowed are importance, density, ex2mcmc, mala"),
        (["--samplers", "none"], "samplers: none given"),
        (["--sweep_particles", "0"], "a number of particles below 1"),
    ):
        with pytest.raises(InputError, match=words):
            parse_config(IsirFidConfig, PRESETS, argv, "isir_fid")
