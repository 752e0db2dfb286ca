"""Answer the exercise's theoretical part and check the answers by computation: `mlflow run . -e theory`.

Two distributions on parallel segments, (x, theta) and (x, theta_star) with x ~ U(0, 1): config -> each distance by its
formula and by computation, over thetas -> what each gives gradient descent on theta -> what I-SIR samples with a
discriminator's logit and with a critic -> tables, figures, the answer in words. docs/theory.md derives what is checked
here.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from functools import partial

import numpy as np
import torch

from common.progress import Progress
from evaluation import distances
from evaluation.distances import wasserstein_of_samples
from models.gan.isir import Weights, run_chains
from tracking.run import Run, start_run
from tracking.silent_run import SilentRun
from trainers.theory.config import TheoryConfig
from trainers.theory.figures import draw_corrections, draw_distances, draw_fits, draw_gradients
from trainers.theory.networks import GENERATOR_LOSSES, Kind, Opponent, generate, penalised_slope
from training.config import as_params, parse_config

# -----------------------------------------------------------------------------------------------------------------
# distances


@plain_dataclass
class Row:
    """One line of the table: a distance at one offset, by its formula and by one way of computing it.

    `limit`: what the exercise asks for, that of the bare segments; `analytic`: the formula of exactly what was computed
    (the smoothed distributions, the penalised critic); they are the same where nothing is smoothed or penalised.
    """

    distance: str
    way: str
    offset: float
    limit: float
    analytic: float
    numerical: float

    @property
    def error(self) -> float:
        """|numerical - analytic|, for KL, which has no bound, relative to the formula where that is above 1."""
        size = max(1.0, self.analytic) if self.distance == "KL" else 1.0
        return abs(self.numerical - self.analytic) / size


def smoothed_rows(config: TheoryConfig) -> list[Row]:
    """KL and JS of the segments with Gaussian noise: formula against a sum over a grid of the plane."""
    rows = []
    for sigma in config.sigmas:
        for offset in config.offsets:
            kl, js = distances.smoothed_divergences_on_grid(offset, sigma)
            way = f"smoothed, sigma {sigma:g}"
            for name, limit, formula, found in (
                ("KL", distances.segments_kl(offset), distances.smoothed_kl(offset, sigma), kl),
                ("JS", distances.segments_js(offset), distances.smoothed_js(offset, sigma), js),
            ):
                rows.append(Row(name, way, offset, limit, formula, found))
    return rows


def transport_rows(config: TheoryConfig) -> list[Row]:
    """Wasserstein distance of two samples by exact optimal transport."""
    rng = np.random.default_rng(config.seed)
    rows = []
    for offset in config.offsets:
        a, b = segment_sample(rng, config.n_samples, offset), segment_sample(rng, config.n_samples, 0.0)
        exact = distances.segments_wasserstein(offset)
        rows.append(Row("Wasserstein", "transport of samples", offset, exact, exact, wasserstein_of_samples(a, b)[0]))
    return rows


def segment_sample(rng: np.random.Generator, n: int, y: float) -> np.ndarray:
    """n points (x, y), x ~ U(0, 1): [n, 2]."""
    return np.column_stack([rng.random(n), np.full(n, y)])


def network_rows(
    config: TheoryConfig, advance: Callable[[str], None]
) -> tuple[list[Row], dict[float, dict[str, float]]]:
    """JS by a trained discriminator, Wasserstein by a trained critic, and the gradient that each generator loss gives
    theta.
    """
    rows: list[Row] = []
    gradients: dict[float, dict[str, float]] = {}
    for offset in config.offsets:
        gradients[offset] = {}
        for kind in ("discriminator", "critic"):
            opponent = make_opponent(config, kind)
            opponent.fit(config.steps, offset, 0.0)
            found = opponent.estimate(offset, 0.0)
            if kind == "discriminator":
                js = distances.segments_js(offset)
                rows.append(Row("JS", "trained discriminator", offset, js, js, found))
            else:
                w = distances.segments_wasserstein(offset)
                expected = w * penalised_slope(offset, config.gp_scale)
                rows.append(Row("Wasserstein", "trained critic", offset, w, expected, found))
            for name, (needed, loss) in GENERATOR_LOSSES.items():
                if needed == kind:
                    gradients[offset][name] = opponent.gradient(loss, offset)
            advance(f"{kind}, offset {offset:g}")
    return rows, gradients


def make_opponent(config: TheoryConfig, kind: Kind) -> Opponent:
    return Opponent(kind, config.width, config.lr, config.batch_size, config.gp_scale, config.seed)


# ------------------------------------------------------------------------------------------------------- gradient
# descent


def descend(config: TheoryConfig, slope: Callable[[float], float], advance: Callable[[], None]) -> list[float]:
    """theta - theta_star at every step of gradient descent; it ends early where theta leaves the plane for good."""
    path = [config.start]
    for _ in range(config.theta_steps):
        path.append(path[-1] - config.lr_theta * slope(path[-1]))
        advance()
        if not abs(path[-1]) < 1000 * abs(config.start):
            break
    return path


def descents(config: TheoryConfig, advance: Callable[[str], None]) -> dict[str, list[float]]:
    """Gradient descent on theta under every distance: {name: theta - theta_star at every step}."""
    rng = np.random.default_rng(config.seed)

    def transport_slope(offset: float) -> float:
        a, b = segment_sample(rng, 200, offset), segment_sample(rng, 200, 0.0)
        difference = a - b[wasserstein_of_samples(a, b)[1]]
        length = np.maximum(np.linalg.norm(difference, axis=1), 1e-12)
        return float((difference[:, 1] / length).mean())

    def network_slope(name: str) -> Callable[[float], float]:
        kind, loss = GENERATOR_LOSSES[name]
        opponent = make_opponent(config, kind)

        def slope(offset: float) -> float:
            for _ in range(config.n_dis):
                opponent.update(offset, 0.0)
            return opponent.gradient(loss, offset, config.batch_size)

        return slope

    slopes: dict[str, Callable[[float], float]] = {}
    for sigma in config.sigmas:
        slopes[f"KL, sigma {sigma:g}"] = partial(distances.smoothed_kl_slope, sigma=sigma)
    for sigma in config.sigmas:
        slopes[f"JS, sigma {sigma:g}"] = partial(distances.smoothed_js_slope, sigma=sigma)
    slopes["JS, discriminator, saturating loss"] = network_slope("saturating")
    slopes["JS, discriminator, non-saturating loss"] = network_slope("non_saturating")
    slopes["Wasserstein, critic"] = network_slope("critic")
    slopes["Wasserstein, transport of samples"] = transport_slope
    return {name: descend(config, slope, partial(advance, name)) for name, slope in slopes.items()}


def verdict(path: Sequence[float], config: TheoryConfig) -> str:
    """Where a descent ended, in words; `arrived` means that its last tenth lies within two steps of size lr_theta."""
    near = 2 * config.lr_theta
    swing, nearest = max(map(abs, path[-max(1, config.theta_steps // 10) :])), min(map(abs, path))
    if swing > 2 * abs(config.start):
        return "thrown out"
    if swing <= near:
        return "arrived"
    if nearest <= near:
        return f"reached, but still swings up to {swing:.2g} away"
    if max(abs(value - config.start) for value in path) < 0.05 * abs(config.start):
        return "stuck at the start"
    return f"comes no nearer than {nearest:.2g}"


# ----------------------------------------------------------------------------------------- correction of latent
# distribution


@plain_dataclass
class Correction:
    """Mean and variance of y after I-SIR, and what theory says they are. y is relative to theta_star."""

    network: str
    weights: str
    analytic: tuple[float, float]
    numerical: tuple[float, float]
    y: np.ndarray


def corrections(config: TheoryConfig, advance: Callable[[str], None]) -> list[Correction]:
    """Train both networks between N(start, noise^2) and N(0, noise^2) along y; correct the first by I-SIR with either
    weight.

    A discriminator's logit has slope -start / noise^2, a critic's slope is a constant: docs/theory.md derives the four
    targets.
    """
    found = []
    slopes = {
        "discriminator": -config.start / config.noise**2,
        "critic": -math.copysign(penalised_slope(config.start, config.gp_scale), config.start),
    }
    for kind in ("discriminator", "critic"):
        opponent = make_opponent(config, kind)
        opponent.fit(4 * config.steps, config.start, 0.0, config.noise)
        for weights in ("importance", "density"):
            chosen: Weights = "importance" if weights == "importance" else "density"
            chains = run_chains(
                opponent.network.eval(),
                lambda z: generate(z, config.start, config.noise),
                n_chains=config.n_chains,
                n_iterations=config.n_iterations,
                n_particles=config.n_particles,
                n_z=2,
                weights=chosen,
                generator=torch.Generator().manual_seed(config.seed),
                chunk_images=10**5,
            )
            y = generate(chains.z, config.start, config.noise)[:, 1].double().numpy()
            # Along z_2, log w is linear: it shifts N(0, 1), or N(0, 1/2) where the prior counts twice, by slope times
            # variance.
            variance = config.noise**2 * (1.0 if chosen == "importance" else 0.5)
            analytic = (config.start + slopes[kind] * variance, variance)
            found.append(Correction(kind, weights, analytic, (float(y.mean()), float(y.var())), y))
            advance(f"I-SIR, {kind}")
    return found


# -------------------------------------------------------------------------------------------------------------------
# records


def largest_errors(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """{way of computing: (largest error, the offset where it is)}; smoothings of one distance are one way."""
    worst: dict[str, tuple[float, float]] = {}
    for row in rows:
        way = f"{row.distance}, {row.way.split(',')[0]}"
        worst[way] = max(worst.get(way, (-1.0, 0.0)), (row.error, row.offset))
    return worst


def answer(
    config: TheoryConfig,
    rows: Sequence[Row],
    gradients: Mapping[float, Mapping[str, float]],
    paths: Mapping[str, Sequence[float]],
    corrected: Sequence[Correction],
) -> str:
    """The tables and the answer in words, in Markdown, from the figures alone."""

    def number(value: float) -> str:
        return "infinite" if math.isinf(value) else f"{0 if abs(value) < 1e-12 else value:.4g}"

    smallest = min(config.sigmas)
    shown = [row for row in rows if not row.way.startswith("smoothed") or row.way.endswith(f"sigma {smallest:g}")]
    text = [
        f"# Distances of two parallel segments, theta_star = {config.theta_star:g}",
        "",
        "The exact answers, and what computation finds. `formula`: that of exactly what was computed, a smoothed or "
        "penalised version of the exact answer.",
        "",
        "| distance | computed by | theta - theta_star | exact | formula | computed | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(shown, key=lambda row: (("KL", "JS", "Wasserstein").index(row.distance), row.way)):
        text.append(
            f"| {row.distance} | {row.way} | {row.offset:g} | {number(row.limit)} | {number(row.analytic)} | "
            f"{number(row.numerical)} | {row.error:.1e} |"
        )
    text += ["", "Largest errors over all offsets and sigmas (KL: relative to the formula where that is above 1):", ""]
    for way, (error, offset) in largest_errors(rows).items():
        text.append(f"- {way}: {error:.2g} at {offset:g}")
    text += [
        "",
        "## The gradient that theta gets",
        "",
        "Exact: KL none (infinite), JS 0, Wasserstein the sign of the offset.",
        "",
    ]
    text += [f"| theta - theta_star | {' | '.join(GENERATOR_LOSSES)} |", "|---|" + "---|" * len(GENERATOR_LOSSES)]
    for offset, slopes in gradients.items():
        text.append(f"| {offset:g} | " + " | ".join(f"{slopes[name]:.3g}" for name in GENERATOR_LOSSES) + " |")
    text += ["", "## Gradient descent on theta", ""]
    text += [f"From {config.start:g} away, {config.theta_steps} steps of size {config.lr_theta:g}:", ""]
    text += [f"- {name}: {verdict(path, config)}" for name, path in paths.items()]
    arrived = [name for name, path in paths.items() if verdict(path, config) == "arrived"]
    text += ["", f"Arrived: {'; '.join(arrived) or 'none'}.", "", "## Correction of the latent distribution", ""]
    text += [
        f"Generated y ~ N({config.start:g}, {config.noise**2:g}), real y ~ N(0, {config.noise**2:g}), relative to "
        "theta_star; mean and variance of y after I-SIR:",
        "",
        "| network | weights | mean: theory | computed | variance: theory | computed |",
        "|---|---|---|---|---|---|",
    ]
    for c in corrected:
        (m, v), (m_found, v_found) = c.analytic, c.numerical
        text.append(f"| {c.network} | {c.weights} | {m:.3f} | {m_found:.3f} | {v:.3f} | {v_found:.3f} |")
    return "\n".join(text) + "\n"


def record(
    run: Run | SilentRun,
    config: TheoryConfig,
    rows: Sequence[Row],
    gradients: Mapping[float, Mapping[str, float]],
    paths: Mapping[str, Sequence[float]],
    corrected: Sequence[Correction],
    text: str,
) -> None:
    """Errors, paths of theta, tables and figures."""
    metrics = {f"error {way.replace(',', '')}": error for way, (error, _) in largest_errors(rows).items()}
    for c in corrected:
        metrics[f"isir {c.network} {c.weights} mean"], metrics[f"isir {c.network} {c.weights} variance"] = c.numerical
    run.log_metrics({name.lower().replace(" ", "_"): value for name, value in metrics.items()}, step=0)
    for name, path in paths.items():
        key = "theta_" + name.lower().replace(",", "").replace(" ", "_")
        for step, offset in enumerate(path):
            run.log_metrics({key: config.theta_star + offset}, step=step)
    run.log_dict(
        {
            "distances": [
                {
                    "distance": r.distance,
                    "way": r.way,
                    "theta": config.theta_star + r.offset,
                    "exact": r.limit,
                    "formula": r.analytic,
                    "computed": r.numerical,
                    "error": r.error,
                }
                for r in rows
            ],
            "gradients": [{"theta": config.theta_star + offset, **slopes} for offset, slopes in gradients.items()],
            "descents": {name: verdict(path, config) for name, path in paths.items()},
            "corrections": [
                {"network": c.network, "weights": c.weights, "theory": c.analytic, "computed": c.numerical}
                for c in corrected
            ],
        },
        "theory.json",
    )
    run.log_text(text, "answer.md")
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        points.setdefault(row.distance, {}).setdefault(row.way, []).append((row.offset, row.numerical))
    run.log_figure(draw_distances(points, config.sigmas, config.gp_scale), "figures/distances.png")
    run.log_figure(draw_gradients(gradients), "figures/gradients.png")
    run.log_figure(draw_fits(paths, config.start), "figures/descents.png")
    named = {f"{c.network}, {c.weights}": (c.analytic, c.y) for c in corrected}
    run.log_figure(draw_corrections(named, config.start, config.noise), "figures/corrections.png")


# ---------------------------------------------------------------------------------------------------------------------
# main


def run_theory(config: TheoryConfig) -> int:
    """Compute, record, print; the exit status."""
    run = start_run(
        "theory", as_params(config), tags={"device": "cpu"}, output_dir=config.output_dir, run_name=config.run_name
    )
    with run:
        trainings, chains = 2 * len(config.offsets), 4
        progress = Progress(trainings + (2 * len(config.sigmas) + 4) + chains, unit="part")
        rows = smoothed_rows(config) + transport_rows(config)
        more, gradients = network_rows(config, lambda note: progress.advance(note=note))
        rows += more
        seen: set[str] = set()

        def count_descent(name: str) -> None:
            if name not in seen:
                seen.add(name)
                progress.advance(note=f"descent, {name}")

        paths = descents(config, count_descent)
        corrected = corrections(config, lambda note: progress.advance(note=note))
        progress.close()
        text = answer(config, rows, gradients, paths, corrected)
        record(run, config, rows, gradients, paths, corrected, text)
        run.finish()
        print(f"\n{text}\nrun {run.run_id}\nopen it: {run.url()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_theory(parse_config(TheoryConfig, {}, sys.argv[1:] if argv is None else argv, "theory"))
