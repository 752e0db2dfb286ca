"""Correct a generator's latent distribution and measure what it gains: `mlflow run . -e isir_fid`.

Config -> generator and critic -> references -> density ratio, and what ratio and critic are worth -> images of each
sampler and plain ones, from the same codes -> scores in the same features -> paired differences -> sweeps over N_i, N_p
and beta -> figures -> summary. models/gan/isir.py has the samplers, models/gan/density_ratio.py the ratio,
docs/isir_fid.md the theory and what came out.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from common.errors import InputError
from data.images.load import ImageSet
from evaluation.calibration import Calibration
from evaluation.features import Extractor
from evaluation.figures import image_grid, plot_image
from tracking.run import AnyRun, start_run
from trainers.isir_fid.calibration import (
    RealImages,
    check_cells,
    check_generated,
    check_gradient,
    density_ratio,
    judge,
    log_calibrations,
    real_images,
    register_ratio,
)
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from trainers.isir_fid.figures import codes_to_show, plot_chains, plot_sweeps
from trainers.isir_fid.samplers import Findings, SamplerEvaluation, SamplerResult, compare
from trainers.isir_fid.summary import summarise
from training.config import as_params, parse_config
from training.generators.digit_features import digits_extractor
from training.generators.foreign import load_any_generator
from training.generators.measuring import (
    Reference,
    check_count,
    describe_measurement,
    generate,
    log_reference,
    measure_reference,
    reference_images,
    refuse_early,
)
from training.generators.stored import StoredNetwork, load_critic, load_density_ratio
from training.processes import Processes, join_processes
from training.summary import SUMMARY


@dataclass(frozen=True)
class Inputs:
    """All that a run reads before it is recorded. critic: None where no sampler needs one and none is known. extractor:
    None for the digits' own, which the run trains or finds.
    """

    generator: StoredNetwork
    critic: StoredNetwork | None
    reference: ImageSet
    real: RealImages
    extractor: Extractor | None


def read_inputs(config: IsirFidConfig, processes: Processes) -> Inputs:
    """Generator, critic and images; InputError for anything that does not go together."""
    generator = load_any_generator(config.model_uri, config.nz, processes.device)
    check_generated(generator, processes.device)
    check_cells(config, generator)
    check_gradient(config, generator, processes.device)
    needed = bool(config.weights_used - {"calibrated"})
    known = needed or bool(generator.config) or config.critic_uri is not None
    critic = load_critic(config.critic_uri, generator, processes.device) if known else None
    if config.calibration != "fit" and "calibrated" in config.weights_used:
        load_density_ratio(config.calibration, generator, processes.device)  # refuse another generator's at once
    reference = reference_images(config, generator)
    counts = {"n_images": config.n_images, "n_sweep": config.n_sweep}
    extractor = refuse_early(config, reference, counts, processes.device)
    return Inputs(generator, critic, reference, real_images(config, generator, reference), extractor)


def run_isir_fid(config: IsirFidConfig) -> int:
    """Sample with and without correction, measure the difference and record it; the exit status."""
    processes = join_processes(config.device)
    inputs = read_inputs(config, processes)

    with start_run(
        entry_point="isir_fid",
        params=as_params(config),
        tags={"device": processes.device.type},
        output_dir=config.output_dir,
        run_name=config.run_name,
    ) as run:
        log_reference(run, config, inputs.reference)
        extractor = inputs.extractor or digits_extractor(run, config.cache_dir, processes.device)
        reference = measure_reference(config, inputs.reference, extractor, processes)
        held_out = held_out_reference(config, inputs.real.held_out, extractor, processes)
        critic_uri = "none" if inputs.critic is None else inputs.critic.uri
        described = describe_measurement(extractor, inputs.generator, reference)
        run.log_params({**described, "resolved_critic_uri": critic_uri})

        ratio, calibrations = rate(run, config, inputs, processes)
        evaluation = SamplerEvaluation(
            config=config,
            generator=inputs.generator,
            critic=inputs.critic,
            ratio=ratio,
            extractor=extractor,
            reference=reference,
            held_out=held_out,
            device=processes.device,
        )
        found = compare(evaluation)
        log_findings(run, evaluation, found)
        summary = summarise(evaluation, found, calibrations)
        run.log_text(summary, SUMMARY)
        run.finish()
        print(f"\n{summary}\nfeatures: {extractor.family}; resize: {extractor.resize}")
        print(f"run {run.run_id}\nopen it: {run.url()}")
    return 0


def held_out_reference(
    config: IsirFidConfig, images: ImageSet, extractor: Extractor, processes: Processes
) -> Reference | None:
    """The second reference, which neither generator nor critic nor ratio has seen; None where it is too small."""
    try:
        check_count(min(len(images), config.n_reference), "held out", extractor.dim, config)
    except InputError as error:
        print(f"no second reference: {error}")
        return None
    return measure_reference(config, images, extractor, processes)


def rate(
    run: AnyRun, config: IsirFidConfig, inputs: Inputs, processes: Processes
) -> tuple[StoredNetwork | None, dict[str, Calibration]]:
    """(the density ratio, if a sampler needs it; what ratio and critic are worth). A fitted ratio is registered."""
    device, generator, held_out = processes.device, inputs.generator, inputs.real.held_out
    ratio = None
    if "calibrated" in config.weights_used:
        ratio = density_ratio(config, generator, inputs.real.fitted, device)
    raters = {"density_ratio": ratio, "critic": inputs.critic}
    known = {name: rater for name, rater in raters.items() if rater is not None}
    calibrations = judge(config, generator, raters=known, held_out=held_out, device=device)
    log_calibrations(run, calibrations, f"{generator.uri}: real against generated, {held_out.source}, held out")
    if ratio is not None and config.calibration == "fit":
        info = register_ratio(
            run,
            config,
            generator=generator,
            critic=inputs.critic,
            ratio=ratio,
            calibration=calibrations["density_ratio"],
        )
        ratio = replace(ratio, uri=info.uri)
    if ratio is not None:
        seen = {
            "resolved_ratio_cells": ratio.config["cells"],
            "resolved_ratio_noise": ratio.config["settings"]["noise"],
        }
        run.log_params({"resolved_calibration": ratio.uri, **seen})
    return ratio, calibrations


def log_findings(run: AnyRun, evaluation: SamplerEvaluation, found: Findings) -> None:
    """Metrics, curves, figures, and all of it as JSON."""
    metrics = metrics_of(found)
    run.log_metrics(metrics, step=0)
    log_curves(run, found.samplers)
    log_figures(run, evaluation, found)
    run.log_dict({"metrics": metrics, "sweeps": found.sweeps, "reference": evaluation.described}, "scores.json")


def metrics_of(found: Findings) -> dict[str, float]:
    """The scores of plain sampling and of every sampler, with its differences and its cost, as metrics of the run."""
    metrics: dict[str, float] = {}
    for sampler, result in {"plain": found.plain, **found.samplers}.items():
        values = {**result.scores, **{f"held_out_{name}": value for name, value in result.held_out.items()}}
        if sampler != "plain":
            n = len(result.chains.z)
            values["seconds_per_sample"] = result.seconds / n
            values["images_per_sample"] = result.chains.images / n
            for prefix, differences in (("", found.differences), ("held_out_", found.held_out_differences)):
                if difference := differences.get(sampler):
                    values[f"{prefix}difference"] = difference.value
                    values[f"{prefix}difference_low"] = difference.low
                    values[f"{prefix}difference_high"] = difference.high
        metrics |= {f"{sampler}_{name}": value for name, value in values.items()}
    return metrics


def log_curves(run: AnyRun, samplers: Mapping[str, SamplerResult]) -> None:
    """The curves of every sampler's chains as metrics over the iteration."""
    for sampler, result in samplers.items():
        for name, values in result.chains.curves.items():
            for iteration, value in enumerate(values, start=1):
                run.log_metrics({f"{sampler}_{name}": value}, step=iteration)


def log_figures(run: AnyRun, evaluation: SamplerEvaluation, found: Findings) -> None:
    """Curves of the chains, grids of images, sweeps."""
    title = f"{evaluation.generator.uri}, {evaluation.reference.images.name}"
    n_iterations = evaluation.config.n_iterations
    chains = plot_chains(found.samplers, n_iterations, f"{title}: chains against iteration")
    run.log_figure(chains, "figures/chains.png")
    for name, (z, caption) in codes_to_show(found.plain, found.samplers).items():
        grid = image_grid(generate(evaluation.generator, z, evaluation.device))
        run.log_figure(plot_image(grid, f"{title}: {caption}"), f"figures/samples_{name}.png")
    distances = (evaluation.extractor.score, evaluation.extractor.kernel_score)
    sweeps = plot_sweeps(found.sweeps, distances, f"{title}: I-SIR, weights {evaluation.headline}")
    run.log_figure(sweeps, "figures/sweeps.png")


def main(argv: list[str] | None = None) -> int:
    return run_isir_fid(parse_config(IsirFidConfig, PRESETS, sys.argv[1:] if argv is None else argv, "isir_fid"))
