"""Correct a generator's latent distribution by its critic and measure what it gains: `mlflow run . -e isir_fid`.

Config -> generator and critic -> reference -> plain samples and each sampler's, from the same start codes -> scores in
the same features -> paired differences -> sweeps over N_i, N_p and beta -> figures, comment, records.
models/gan/isir.py has the samplers, docs/isir_fid.md the theory and why there are two weights.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.errors import InputError
from common.progress import Progress
from evaluation.features import Extractor, Features, extract
from evaluation.figures import image_grid, lines, loss_curves, picture
from evaluation.frechet import bootstrap_differences, frechet_of, interval, kernel_distance
from models.gan.isir import Chains, run_chains
from tracking.run import Run, start_run
from tracking.silent_run import SilentRun
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from training.config import as_params, parse_config
from training.generators.measuring import (
    Reference,
    build_extractor,
    check_count,
    describe_measurement,
    images_of,
    measure_reference,
    reference_images,
    scores,
)
from training.generators.stored import StoredNetwork, load_critic, load_generator
from training.processes import join_processes


@plain_dataclass
class Sampled:
    """One sampler's chains with what was measured on them. `seconds`: of sampling alone."""

    chains: Chains
    features: Features
    scores: dict[str, float]
    seconds: float


# ------------------------------------------------------------------------------------------------------------------
# sampling


class Laboratory:
    """Generator, critic, features and reference of one run: samples with given settings and measures what comes out."""

    def __init__(
        self,
        config: IsirFidConfig,
        generator: StoredNetwork,
        critic: StoredNetwork,
        extractor: Extractor,
        reference: Reference,
        device: torch.device,
    ) -> None:
        self.config, self.generator, self.critic = config, generator, critic
        self.extractor, self.reference, self.device = extractor, reference, device

    def sample(
        self,
        sampler: str,
        label: str,
        *,
        n: int,
        particles: int | None = None,
        beta: float | None = None,
        keep: Sequence[int] = (),
    ) -> tuple[Chains, float]:
        """(chains, seconds) of a sampler; every sampler starts from the same codes."""
        config = self.config
        kernel: Any = "isir" if sampler in ("importance", "density") else sampler
        weights: Any = sampler if kernel == "isir" else config.weights_of_mala
        progress = Progress(n * config.n_iterations, unit="chain iteration")
        began = time.monotonic()
        try:
            chains = run_chains(
                self.critic.network,
                self.generator.network,
                n_chains=n,
                n_iterations=config.n_iterations,
                n_particles=particles or config.n_particles,
                n_z=self.generator.nz,
                kernel=kernel,
                weights=weights,
                beta=config.beta if beta is None else beta,
                mala_steps=config.mala_steps,
                step_size=config.step_size,
                keep=(0, *keep),
                chunk_images=config.chunk_images,
                device=self.device,
                generator=torch.Generator().manual_seed(config.seed),
                progress=lambda done: progress.advance(done, note=label),
            )
        except ValueError as error:
            raise InputError(f"{label}: {error}") from None
        progress.close()
        return chains, time.monotonic() - began

    def features_of(self, z: Tensor) -> Features:
        """Features of the images of codes [n, nz]."""
        return extract(self.extractor, images_of(self.generator, z, self.config.batch_size, self.device))

    def generating_seconds(self, z: Tensor) -> float:
        """Seconds that the images of codes [n, nz] take alone: plain sampling, without the feature network."""
        began = time.monotonic()
        for _ in images_of(self.generator, z, self.config.batch_size, self.device):
            pass
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began

    def distances(self, features: Features) -> dict[str, float]:
        """Fréchet and kernel distance only, for the sweeps."""
        generator = torch.Generator().manual_seed(self.config.seed)
        kernel, error = kernel_distance(features.x, self.reference.features.x, generator)
        return {
            self.extractor.score: frechet_of(features.x, self.reference.gaussian),
            self.extractor.kernel_score: kernel,
            f"{self.extractor.kernel_score}_se": error,
        }


def sweep(lab: Laboratory) -> dict[str, list[dict[str, float]]]:
    """Importance weights with other N_i, N_p and beta, `n_sweep` chains each: {what is swept: a row of figures for each
    value}.
    """
    config, n = lab.config, lab.config.n_sweep
    shown = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
    iterations = [*(i for i in shown if i < config.n_iterations), config.n_iterations]
    chains, _ = lab.sample("importance", "sweep over N_i", n=n, keep=iterations)
    rows: dict[str, list[dict[str, float]]] = {
        "n_iterations": [{"n_iterations": i, **lab.distances(lab.features_of(chains.kept[i]))} for i in iterations]
    }
    last = rows["n_iterations"][-1]
    effective = {"ess": chains.curves["ess"][-1], "moved": chains.curves["moved"][-1]}
    for name, values, here in (
        ("n_particles", config.sweep_particles, config.n_particles),
        ("beta", config.sweep_beta, config.beta),
    ):
        rows[name] = [{**last, name: here, **effective}]
        for value in values:
            if value != here:
                chains, _ = lab.sample(
                    "importance",
                    f"sweep, {name} {value:g}",
                    n=n,
                    particles=int(value) if name == "n_particles" else None,
                    beta=value if name == "beta" else None,
                )
                figures = lab.distances(lab.features_of(chains.z))
                rows[name].append(
                    {name: value, **figures, "ess": chains.curves["ess"][-1], "moved": chains.curves["moved"][-1]}
                )
        rows[name].sort(key=lambda row: row[name])
    return rows


# -------------------------------------------------------------------------------------------------------------------
# comment


def verdict(low: float, high: float) -> str:
    """What an interval of the difference to plain sampling says; below zero is better."""
    if high < 0:
        return "better than plain sampling"
    return "worse than plain sampling" if low > 0 else "no difference that these images show"


def comment(
    config: IsirFidConfig,
    score: str,
    kernel_score: str,
    reference: str,
    plain: Sampled,
    samplers: Mapping[str, Sampled],
    differences: Mapping[str, tuple[float, float, float]],
    sweeps: Mapping[str, Sequence[Mapping[str, float]]],
    critic_sd: float,
) -> str:
    """The written comment on what was obtained, in Markdown, made from the figures alone.

    differences: {sampler: (difference of the score, low, high)}; critic_sd: sd of D(G(z)) over plain samples.
    """
    particles = config.n_particles + 1
    text = [
        f"# Plain and corrected sampling, {config.n_images:,} images, reference {reference}",
        "",
        f"N_i = {config.n_iterations}, N_p = {config.n_particles}, beta = {config.beta:g}. Lower {score} and "
        f"{kernel_score} are better.",
        "",
        f"| sampler | {score} | difference (95 % interval) | {kernel_score} (se) | precision | recall | images made "
        "per sample | seconds per 1,000 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, sampled in {"plain": plain, **samplers}.items():
        s, n = sampled.scores, len(sampled.chains.z)
        interval_text = "{:+.4g} ({:+.4g} to {:+.4g})".format(*differences[name]) if name in differences else ""
        kernel_text = f"{s[kernel_score]:.3g} ({s[f'{kernel_score}_se']:.1g})"
        text.append(
            f"| {name} | {s[score]:.4g} | {interval_text} | {kernel_text} | {s['precision']:.3f} | {s['recall']:.3f} "
            f"| {sampled.chains.images / n:.0f} | {1000 * sampled.seconds / n:.2f} |"
        )
    text += ["", "## What was obtained", ""]
    for name, (change, low, high) in differences.items():
        share = change / plain.scores[score] if plain.scores[score] else math.nan
        text.append(
            f"- **{name}**: {score} {plain.scores[score]:.4g} -> {samplers[name].scores[score]:.4g} "
            f"({100 * share:+.1f} %): {verdict(low, high)}. Precision "
            f"{samplers[name].scores['precision'] - plain.scores['precision']:+.3f}, recall "
            f"{samplers[name].scores['recall'] - plain.scores['recall']:+.3f}."
        )
    better = [name for name, (_, _, high) in differences.items() if high < 0]
    many = (
        f" {len(differences)} samplers are as many tests: one such interval alone is weak evidence."
        if len(differences) > 1
        else ""
    )
    text += [
        "",
        f"It helped with: {', '.join(better)}.{many}"
        if better
        else "**It did not help**: no sampler's interval lies below zero.",
    ]
    text += [f"The critic's values D(G(z)) have a standard deviation of {critic_sd:.3g} over plain samples."]
    if "importance" in samplers:
        curves = samplers["importance"].chains.curves
        ess, moved = sum(curves["ess"]) / len(curves["ess"]), sum(curves["moved"]) / len(curves["moved"])
        state = (
            "close to all: the weights are nearly even, and the correction does little"
            if ess > 0.8 * particles
            else "close to one: each draw takes the critic's favourite"
            if ess < 1.5
            else "between the two extremes of no correction and best-of-N"
        )
        text.append(
            f"Importance weights: {ess:.2f} of {particles} particles are effective on average, {state}; "
            f"{100 * moved:.0f} % of draws move."
        )
    if {"importance", "density"} <= set(samplers):
        norms = {name: samplers[name].chains.curves["squared_norm"][-1] for name in ("importance", "density")}
        start = float(plain.chains.z.square().sum(1).mean())
        shorter = (
            "and z became shorter: their change of score is not the critic's doing alone"
            if norms["density"] < start
            else "but here z did not become shorter on average"
        )
        text.append(
            f"Mean |z|^2: plain {start:.1f}, importance {norms['importance']:.1f}, density {norms['density']:.1f}. The "
            f"density weights count the prior twice, which favours short z whatever the critic says, {shorter}."
        )
    for name, rows in sweeps.items():
        best = min(rows, key=lambda row: row[score])
        text.append(
            f"Sweep over {name} ({config.n_sweep:,} chains each): lowest {score} {best[score]:.4g} at {best[name]:g}; "
            "all: "
            + ", ".join(f"{row[name]:g}: {row[score]:.4g}" for row in rows)
            + ". The lowest of several noisy values flatters itself."
        )
    return "\n".join(text) + "\n"


# -------------------------------------------------------------------------------------------------------------------
# records


def draw_sweep(score: str, kernel_score: str, rows: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """A panel for each sweep and score."""
    panels = {
        f"{measure} against {name}": (name, [row[name] for row in values], {measure: [row[measure] for row in values]})
        for measure in (score, kernel_score)
        for name, values in rows.items()
    }
    return lines(panels, title, columns=len(rows))


def draw_samples(
    lab: Laboratory, plain: Sampled, samplers: Mapping[str, Sampled], n: int = 64
) -> dict[str, tuple[Tensor, str]]:
    """Codes and captions of the grids: plain and corrected chain by chain, and the critic's worst and best of the plain
    ones.
    """
    order = plain.chains.value.argsort()
    grids = {"plain": (plain.chains.z[:n], "plain samples")}
    for name, sampled in samplers.items():
        grids[name] = (sampled.chains.z[:n], f"the same chains after {name}")
    grids["critic_worst"] = (plain.chains.z[order[:n]], "plain samples the critic likes least")
    grids["critic_best"] = (plain.chains.z[order[-n:].flip(0)], "plain samples the critic likes most")
    return grids


def record(
    run: Run | SilentRun,
    lab: Laboratory,
    plain: Sampled,
    samplers: Mapping[str, Sampled],
    sweeps: Mapping[str, Sequence[Mapping[str, float]]],
    text: str,
    table: Mapping[str, Any],
) -> None:
    """Curves against iteration, grids, figures, the comment and the whole table."""
    title = f"{lab.generator.uri}, {lab.reference.images.name}"
    for name, sampled in samplers.items():
        for curve, values in sampled.chains.curves.items():
            for iteration, value in enumerate(values, start=1):
                run.log_metrics({f"{name}_{curve}": value}, step=iteration)
    names = sorted({curve for sampled in samplers.values() for curve in sampled.chains.curves})
    steps = list(range(1, lab.config.n_iterations + 1))
    curves = {c: {s: v.chains.curves[c] for s, v in samplers.items() if c in v.chains.curves} for c in names}
    run.log_figure(loss_curves(steps, curves, f"{title}: chains against iteration", "iteration"), "figures/chains.png")
    for name, (z, caption) in draw_samples(lab, plain, samplers).items():
        pixels = torch.cat(list(images_of(lab.generator, z, 64, lab.device))).cpu().numpy()
        run.log_figure(picture(image_grid(pixels), f"{title}: {caption}"), f"figures/samples_{name}.png")
    score, kernel_score = lab.extractor.score, lab.extractor.kernel_score
    run.log_figure(draw_sweep(score, kernel_score, sweeps, f"{title}: I-SIR, importance weights"), "figures/sweeps.png")
    run.log_text(text, "comment.md")
    run.log_dict(table, "scores.json")


# ---------------------------------------------------------------------------------------------------------------------
# main


def run_isir_fid(config: IsirFidConfig) -> int:
    """Sample, measure, record, print; the exit status."""
    processes = join_processes(config.device)
    device = processes.device
    generator = load_generator(config.model_uri, device)
    critic = load_critic(config.critic_uri, generator, device)
    images = reference_images(config, generator)

    run = start_run(
        "isir_fid",
        as_params(config),
        tags={"device": device.type},
        output_dir=config.output_dir,
        run_name=config.run_name,
    )
    with run:
        run.log_data(
            images.name, images.fingerprint, {"source": images.source, "split": images.split}, context="reference"
        )
        extractor = build_extractor(config, run, device)
        check_count(config.n_images, "n_images", extractor, config)
        check_count(config.n_sweep, "n_sweep", extractor, config)
        reference = measure_reference(config, images, extractor, processes)
        run.log_params({**describe_measurement(extractor, generator, reference), "resolved_critic_uri": critic.uri})
        lab = Laboratory(config, generator, critic, extractor, reference, device)

        samplers: dict[str, Sampled] = {}
        start: Tensor | None = None
        for name in config.samplers:
            chains, seconds = lab.sample(name, name, n=config.n_images)
            start = chains.kept[0]
            features = lab.features_of(chains.z)
            samplers[name] = Sampled(chains, features, scores(config, extractor, features, reference), seconds)
        assert start is not None
        seconds = lab.generating_seconds(start)
        features = lab.features_of(start)
        with torch.no_grad():
            value = torch.cat(
                [critic.network(generator.network(part)).reshape(-1) for part in start.split(config.batch_size)]
            )
        plain = Sampled(
            Chains(start, value, {}, {}, len(start)), features, scores(config, extractor, features, reference), seconds
        )

        differences: dict[str, tuple[float, float, float]] = {}
        for label, sampled in samplers.items():
            draws = bootstrap_differences(
                plain.features.x,
                sampled.features.x,
                reference.gaussian,
                config.bootstrap,
                torch.Generator().manual_seed(config.seed),
            )
            differences[label] = (sampled.scores[extractor.score] - plain.scores[extractor.score], *interval(draws))
        sweeps = sweep(lab)

        described = f"{images.source}, split {images.split}"
        text = comment(
            config,
            extractor.score,
            extractor.kernel_score,
            described,
            plain,
            samplers,
            differences,
            sweeps,
            float(value.std()),
        )
        metrics = {f"plain_{key}": figure for key, figure in plain.scores.items()}
        for label, sampled in samplers.items():
            change, low, high = differences[label]
            metrics |= {f"{label}_{key}": figure for key, figure in sampled.scores.items()}
            metrics |= {f"{label}_difference": change, f"{label}_difference_low": low, f"{label}_difference_high": high}
            metrics |= {f"{label}_seconds_per_sample": sampled.seconds / config.n_images}
            metrics |= {f"{label}_images_per_sample": sampled.chains.images / config.n_images}
        run.log_metrics(metrics, step=0)
        record(run, lab, plain, samplers, sweeps, text, {"metrics": metrics, "sweeps": sweeps, "reference": described})
        run.finish()
        print(f"\n{text}\nfeatures: {extractor.family}; resize: {extractor.resize}")
        print(f"run {run.run_id}\nopen it: {run.url()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_isir_fid(parse_config(IsirFidConfig, PRESETS, sys.argv[1:] if argv is None else argv, "isir_fid"))
