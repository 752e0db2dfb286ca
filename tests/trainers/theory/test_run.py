"""The theory entry point: networks against closed forms, descents against recursions that are known, and a whole
run.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from evaluation.distances import smoothed_kl_slope
from tests.conftest import PATIENCE
from tests.running import begin_trainer, client, run_trainer, runs
from trainers.theory.config import TheoryConfig
from trainers.theory.correction import Correction, corrections
from trainers.theory.descent import descend, distance_slopes, verdict
from trainers.theory.networks import GENERATOR_LOSSES, DiscriminatorOrCritic, Kind, generate, penalised_slope
from trainers.theory.results import TheoryResults
from trainers.theory.segments import DistanceRow, largest_errors
from trainers.theory.summary import summarise
from training.config import parse_config


class AlongY(nn.Module):
    """value = slope * y + shift."""

    def __init__(self, slope: float, shift: float = 0.0) -> None:
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x[:, 1:] + self.shift


def known_network(kind: Kind, layers: nn.Module, gp_scale: float = 10.0) -> DiscriminatorOrCritic:
    made = DiscriminatorOrCritic(kind, width=16, lr=0.01, batch_size=64, gp_scale=gp_scale, seed=0)
    made.layers = layers  # type: ignore[assignment]
    made.optimizer = torch.optim.Adam(layers.parameters(), lr=0.01, betas=(0.0, 0.9))
    return made


def test_points_lie_on_the_segments() -> None:
    points = generate(torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)), 0.7, 0.0)
    assert torch.equal(points[:, 1], torch.full((20_000,), 0.7))
    share = np.histogram(points[:, 0].numpy(), bins=10, range=(0, 1))[0] / 20_000
    assert share == pytest.approx(np.full(10, 0.1), abs=0.01)


@pytest.mark.parametrize("gp_scale", [1.0, 10.0])
def test_a_linear_critic_ends_at_the_slope_of_the_closed_form(gp_scale: float) -> None:
    """max over s of s |offset| - gp_scale (s - 1)^2 is at 1 + |offset| / (2 gp_scale)."""
    made = known_network("critic", AlongY(0.0), gp_scale)
    made.fit(800, -0.8, 0.0)
    assert made.layers.slope.item() == pytest.approx(penalised_slope(-0.8, gp_scale), abs=2e-3)  # type: ignore[union-attr]
    assert made.estimate(-0.8, 0.0) == pytest.approx(0.8 * penalised_slope(-0.8, gp_scale), abs=2e-3)


def test_gradients_of_a_known_network() -> None:
    """logit = a y + b at height theta: the derivatives are -sigmoid(l) a, -sigmoid(-l) a and -a."""
    a, b, theta = 3.0, -1.0, 0.5
    made = known_network("discriminator", AlongY(a, b))
    d = 1 / (1 + math.exp(-(a * theta + b)))
    found = {name: made.gradient(loss, theta, 8) for name, (_, loss) in GENERATOR_LOSSES.items()}
    assert found == pytest.approx({"saturating": -d * a, "non_saturating": -(1 - d) * a, "critic": -a})


def test_estimates_of_known_networks() -> None:
    made = known_network("discriminator", AlongY(0.0, 0.0))
    assert made.estimate(1.0, 0.0) == pytest.approx(0, abs=1e-6)  # a discriminator that says 1/2 has seen no difference
    perfect = known_network("discriminator", AlongY(-100.0, 50.0))
    assert perfect.estimate(1.0, 0.0) == pytest.approx(math.log(2), abs=1e-6)


def test_networks_find_the_distances_and_the_discriminator_leaves_no_gradient() -> None:
    for kind, exact in (("discriminator", math.log(2)), ("critic", 0.5 * penalised_slope(0.5, 10.0))):
        made = DiscriminatorOrCritic(kind, width=32, lr=0.005, batch_size=128, gp_scale=10.0, seed=0)  # type: ignore[arg-type]
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
        path = descend(config, lambda offset, sigma=sigma: smoothed_kl_slope(offset, sigma))
        assert path[:5] == pytest.approx([(1 - 0.02 / sigma**2) ** k for k in range(5)], rel=1e-9)
        assert verdict(path, config) == words
    assert len(path) < 150  # what is thrown out is not followed to infinity
    assert verdict([1.0] * 151, config) == "stuck at the start"
    assert verdict([*np.linspace(1, 0, 120), *[0.0, 0.3] * 15], config) == "reached, but still swings up to 0.3 away"


def test_transport_of_samples_walks_straight_to_the_target() -> None:
    config = TheoryConfig(theta_steps=30, start=0.4, lr_theta=0.02, width=4, batch_size=4, n_dis=1, sigmas=(0.3,))
    slopes = distance_slopes(config)
    path = descend(config, slopes["Wasserstein, transport of samples"])
    assert path[:10] == pytest.approx([0.4 - 0.02 * k for k in range(10)], abs=2e-3)
    assert verdict(path, config) == "arrived"
    assert len(slopes) == 6


def test_i_sir_samples_what_theory_says() -> None:
    config = TheoryConfig(steps=150, width=32, batch_size=128, n_chains=1500, n_iterations=15)
    found = {(c.network, c.weights): c for c in corrections(config)}
    assert found["discriminator", "importance"].theory == (0.0, 0.25)
    assert found["discriminator", "density"].theory == (0.5, 0.125)
    assert found["critic", "importance"].theory == pytest.approx((1 - 1.05 * 0.25, 0.25))
    for c in found.values():
        assert c.computed[0] == pytest.approx(c.theory[0], abs=0.12)
        assert c.computed[1] == pytest.approx(c.theory[1], rel=0.3)


def row(distance: str, way: str, offset: float, *, exact: float, formula: float, computed: float) -> DistanceRow:
    return DistanceRow(distance=distance, way=way, offset=offset, exact=exact, formula=formula, computed=computed)


def test_the_summary_says_what_was_computed() -> None:
    results = TheoryResults(
        rows=[
            row("Wasserstein", "trained critic", 0.5, exact=0.5, formula=0.5125, computed=0.5),
            row("KL", "smoothed, sigma 0.3", 1.0, exact=math.inf, formula=5.0, computed=5.0),
            row("KL", "smoothed, sigma 0.1", 1.0, exact=math.inf, formula=50.0, computed=51.0),
        ],
        gradients={0.5: {"saturating": -4e-8, "non_saturating": 89.3, "critic": 1.03}},
        paths={"KL, sigma 0.3": [0.0] * 5, "JS, sigma 0.3": [1.0] * 5},
        corrected=[
            Correction(
                network="critic",
                weights="density",
                theory=(0.8686, 0.125),
                computed=(0.865, 0.127),
                y=np.zeros(2),
            )
        ],
    )
    lines = summarise(TheoryConfig(theta_star=2.0, sigmas=(0.3, 0.1)), results).splitlines()
    assert lines[0] == "# Distances of two parallel segments, theta_star = 2"
    table = [line for line in lines if line.startswith(("| KL", "| Wasserstein"))]
    assert table == [  # of the smoothed ones, the smallest sigma alone
        "| KL | smoothed, sigma 0.1 | 1 | infinite | 50 | 51 | 2.0e-02 |",
        "| Wasserstein | trained critic | 0.5 | 0.5 | 0.5125 | 0.5 | 1.2e-02 |",
    ]
    for line in (
        "- KL, smoothed: 0.02 at 1",
        "| theta - theta_star | saturating | non_saturating | critic |",
        "|---|---|---|---|",
        "| 0.5 | -4e-08 | 89.3 | 1.03 |",
        "- JS, sigma 0.3: stuck at the start",
        "Arrived: KL, sigma 0.3.",
        "| critic | density | 0.869 | 0.865 | 0.125 | 0.127 |",
    ):
        assert line in lines


def test_errors_of_kl_are_relative_where_it_is_large() -> None:
    rows = [
        row("KL", "smoothed, sigma 0.1", 1.0, exact=math.inf, formula=50.0, computed=51.0),
        row("KL", "smoothed, sigma 1", 0.1, exact=math.inf, formula=0.005, computed=0.105),
        row("JS", "trained discriminator", 0.0, exact=0.0, formula=0.0, computed=0.3),
    ]
    assert largest_errors(rows) == {
        "KL, smoothed": (pytest.approx(0.1), 0.1),
        "JS, trained discriminator": (pytest.approx(0.3), 0.0),
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--offsets", "none"], "offsets: none given"),
        (["--sigmas", "0.1,0"], "sigmas=.* none below 0.001"),
        (["--start", "0"], "start from -10 to 10 that is not 0"),
        (["--gp_scale", "0"], "gp_scale"),
        (["--offsets", "-11,0"], "give offsets from -10 to 10"),
        (["--toys", "grid,torus"], "toys: torus; allowed are grid, ring, moons"),
    ],
)
def test_bad_parameters_are_refused(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(TheoryConfig, {}, argv, "theory")


def test_sigterm_ends_the_run_as_killed(folder: Path) -> None:
    process = begin_trainer(folder, "theory", steps=1_000_000)
    while process.poll() is None and not runs(folder):
        time.sleep(0.2)
    process.terminate()
    output = process.communicate(timeout=PATIENCE)[0]
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
        toys="moons",
        toy_steps=10,
        toy_points=30,
        toy_iterations=1,
    )
    run = runs(folder)[-1]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["error_wasserstein_transport_of_samples"] < 0.1
    assert run.data.metrics["error_kl_smoothed"] < 1e-9
    history = client(folder).get_metric_history(run.info.run_id, "theta_wasserstein_critic")
    assert [history[0].value, len(history)] == [3.0, 21]  # theta itself, not its offset
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run.info.run_id, path)}
    assert {"summary.md", "theory.json"} <= found
    assert {f"figures/{name}.png" for name in ("distances", "gradients", "descents", "corrections", "toys")} <= found
    table = json.loads(Path(client(folder).download_artifacts(run.info.run_id, "theory.json", str(folder))).read_text())
    assert {row["theta"] for row in table["distances"]} == {2.0, 2.5}
    assert "Largest errors over all offsets and sigmas" in text
    (toy,) = table["toys"]
    assert toy["toy"] == "two moons"
    assert run.data.metrics["toy_two_moons_ratio_near"] == toy["samplers"]["ratio"]["near"]
    assert f"| two moons | data | {100 * toy['samplers']['data']['near']:.1f} % |" in text
