"""The theory entry point: networks against closed forms, descents against recursions that are known, and a whole
run.
"""

import json
import math
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from evaluation.distances import smoothed_kl_slope
from tests.running import client, command, environment, run_trainer, runs
from trainers.theory.config import TheoryConfig
from trainers.theory.networks import GENERATOR_LOSSES, Opponent, generate, penalised_slope
from trainers.theory.run import Row, corrections, descend, descents, largest_errors, verdict
from training.config import parse_config


class AlongY(nn.Module):
    """value = slope * y + shift."""

    def __init__(self, slope: float, shift: float = 0.0) -> None:
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x[:, 1:] + self.shift


def opponent(kind: str, network: nn.Module | None = None, gp_scale: float = 10.0) -> Opponent:
    made = Opponent(kind, 16, 0.01, 64, gp_scale, 0)  # type: ignore[arg-type]
    if network is not None:
        made.network = network  # type: ignore[assignment]
        made.optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.0, 0.9))
    return made


def test_points_lie_on_the_segments() -> None:
    points = generate(torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)), 0.7, 0.0)
    assert torch.equal(points[:, 1], torch.full((20_000,), 0.7))
    share = np.histogram(points[:, 0].numpy(), bins=10, range=(0, 1))[0] / 20_000
    assert share == pytest.approx(np.full(10, 0.1), abs=0.01)


@pytest.mark.parametrize("gp_scale", [1.0, 10.0])
def test_a_linear_critic_ends_at_the_slope_of_the_closed_form(gp_scale: float) -> None:
    """max over s of s |offset| - gp_scale (s - 1)^2 is at 1 + |offset| / (2 gp_scale)."""
    made = opponent("critic", AlongY(0.0), gp_scale)
    made.fit(800, -0.8, 0.0)
    assert made.network.slope.item() == pytest.approx(penalised_slope(-0.8, gp_scale), abs=2e-3)  # type: ignore[union-attr]
    assert made.estimate(-0.8, 0.0) == pytest.approx(0.8 * penalised_slope(-0.8, gp_scale), abs=2e-3)


def test_gradients_of_a_known_network() -> None:
    """logit = a y + b at height theta: the derivatives are -sigmoid(l) a, -sigmoid(-l) a and -a."""
    a, b, theta = 3.0, -1.0, 0.5
    made = opponent("discriminator", AlongY(a, b))
    d = 1 / (1 + math.exp(-(a * theta + b)))
    found = {name: made.gradient(loss, theta, 8) for name, (_, loss) in GENERATOR_LOSSES.items()}
    assert found == pytest.approx({"saturating": -d * a, "non_saturating": -(1 - d) * a, "critic": -a})


def test_estimates_of_known_networks() -> None:
    made = opponent("discriminator", AlongY(0.0, 0.0))
    assert made.estimate(1.0, 0.0) == pytest.approx(0, abs=1e-6)  # a discriminator that says 1/2 has seen no difference
    perfect = opponent("discriminator", AlongY(-100.0, 50.0))
    assert perfect.estimate(1.0, 0.0) == pytest.approx(math.log(2), abs=1e-6)


def test_networks_find_the_distances_and_the_discriminator_leaves_no_gradient() -> None:
    for kind, exact in (("discriminator", math.log(2)), ("critic", 0.5 * penalised_slope(0.5, 10.0))):
        made = Opponent(kind, 32, 0.005, 128, 10.0, 0)  # type: ignore[arg-type]
        made.fit(300, 0.5, 0.0)
        assert made.estimate(0.5, 0.0) == pytest.approx(exact, abs=0.01)
        for name, (needed, loss) in GENERATOR_LOSSES.items():
            if needed == kind:
                slope = made.gradient(loss, 0.5)
                assert {"saturating": abs(slope) < 1e-4, "non_saturating": slope > 5, "critic": 0.9 < slope < 1.1}[name]


def test_descent_follows_the_known_recursion() -> None:
    """Under smoothed KL theta is multiplied by 1 - lr / sigma^2 at every step: it arrives, swings for ever, or is
    thrown out.
    """
    config = TheoryConfig(lr_theta=0.02, theta_steps=150)
    for sigma, words in ((0.3, "arrived"), (0.1, "comes no nearer than 1"), (0.05, "thrown out")):
        path = descend(config, lambda offset, sigma=sigma: smoothed_kl_slope(offset, sigma), lambda: None)
        assert path[:5] == pytest.approx([(1 - 0.02 / sigma**2) ** k for k in range(5)], rel=1e-9)
        assert verdict(path, config) == words
    assert len(path) < 150  # what is thrown out is not followed to infinity
    assert verdict([1.0] * 151, config) == "stuck at the start"
    assert verdict([*np.linspace(1, 0, 120), *[0.0, 0.3] * 15], config) == "reached, but still swings up to 0.3 away"


def test_transport_of_samples_walks_straight_to_the_target() -> None:
    config = TheoryConfig(theta_steps=30, start=0.4, lr_theta=0.02, width=4, batch_size=4, n_dis=1, sigmas=(0.3,))
    paths = descents(config, lambda name: None)
    path = paths["Wasserstein, transport of samples"]
    assert path[:10] == pytest.approx([0.4 - 0.02 * k for k in range(10)], abs=2e-3)
    assert verdict(path, config) == "arrived"
    assert len(paths) == 6


def test_i_sir_samples_what_theory_says() -> None:
    config = TheoryConfig(steps=150, width=32, batch_size=128, n_chains=1500, n_iterations=15)
    found = {(c.network, c.weights): c for c in corrections(config, lambda name: None)}
    assert found["discriminator", "importance"].analytic == (0.0, 0.25)
    assert found["discriminator", "density"].analytic == (0.5, 0.125)
    assert found["critic", "importance"].analytic == pytest.approx((1 - 1.05 * 0.25, 0.25))
    for c in found.values():
        assert c.numerical[0] == pytest.approx(c.analytic[0], abs=0.12)
        assert c.numerical[1] == pytest.approx(c.analytic[1], rel=0.3)


def test_errors_of_kl_are_relative_where_it_is_large() -> None:
    rows = [
        Row("KL", "smoothed, sigma 0.1", 1.0, math.inf, 50.0, 51.0),
        Row("KL", "smoothed, sigma 1", 0.1, math.inf, 0.005, 0.105),
        Row("JS", "trained discriminator", 0.0, 0.0, 0.0, 0.3),
    ]
    assert largest_errors(rows) == {
        "KL, smoothed": (pytest.approx(0.1), 0.1),
        "JS, trained discriminator": (pytest.approx(0.3), 0.0),
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--offsets", "none"], "offsets: none given"),
        (["--sigmas", "0.1,0"], "sigmas: .* none below 0.001"),
        (["--start", "0"], "start up to 10 but not 0"),
        (["--gp_scale", "0"], "gp_scale"),
        (["--offsets", "-11,0"], "offsets up to 10 either way"),
    ],
)
def test_bad_parameters_are_refused(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(TheoryConfig, {}, argv, "theory")


def test_sigterm_ends_the_run_as_killed(folder: Path) -> None:
    process = subprocess.Popen(
        command("theory", steps=1_000_000),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not runs(folder):
        time.sleep(0.2)
    process.terminate()
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert [run.info.status for run in runs(folder)] == ["KILLED"]


def test_a_whole_run(folder: Path) -> None:
    text = run_trainer(
        folder,
        "theory",
        theta_star=2,
        offsets="0,0.5",
        sigmas="0.3,0.03",
        n_samples=50,
        width=16,
        steps=60,
        batch_size=32,
        theta_steps=20,
        n_chains=100,
        n_iterations=3,
    )
    run = runs(folder)[-1]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["error_wasserstein_transport_of_samples"] < 0.1
    assert run.data.metrics["error_kl_smoothed"] < 1e-9
    history = client(folder).get_metric_history(run.info.run_id, "theta_wasserstein_critic")
    assert [history[0].value, len(history)] == [3.0, 21]  # theta itself, not its offset
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run.info.run_id, path)}
    assert {"answer.md", "theory.json"} <= found
    assert {f"figures/{name}.png" for name in ("distances", "gradients", "descents", "corrections")} <= found
    table = json.loads(Path(client(folder).download_artifacts(run.info.run_id, "theory.json", str(folder))).read_text())
    assert {row["theta"] for row in table["distances"]} == {2.0, 2.5}
    assert "Largest errors over all offsets and sigmas" in text
