"""Correct a generator's latent distribution by its critic and measure what it gains: `mlflow run . -e isir_fid`.

Config -> generator and critic -> reference -> images of each sampler and plain ones, from the same codes -> scores in
the same features -> paired differences -> sweeps over N_i, N_p and beta -> figures -> summary. models/gan/isir.py has
the samplers, docs/isir_fid.md the theory and why there are two weights.
"""

import sys
from collections.abc import Mapping

from evaluation.figures import image_grid, plot_image
from tracking.run import AnyRun, start_run
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from trainers.isir_fid.figures import codes_to_show, plot_chains, plot_sweeps
from trainers.isir_fid.samplers import Difference, SamplerEvaluation, SamplerResult, Sweeps, sweep
from trainers.isir_fid.summary import summarise
from training.config import as_params, parse_config
from training.generators.measuring import (
    build_extractor,
    check_count,
    describe_measurement,
    generate,
    log_reference,
    measure_reference,
    reference_images,
)
from training.generators.stored import load_critic, load_generator
from training.processes import join_processes
from training.summary import SUMMARY


def run_isir_fid(config: IsirFidConfig) -> int:
    """Sample with and without correction, measure the difference and record it; the exit status."""
    processes = join_processes(config.device)
    generator = load_generator(config.model_uri, processes.device)
    critic = load_critic(config.critic_uri, generator, processes.device)
    images = reference_images(config, generator)

    with start_run(
        entry_point="isir_fid",
        params=as_params(config),
        tags={"device": processes.device.type},
        output_dir=config.output_dir,
        run_name=config.run_name,
    ) as run:
        log_reference(run, config, images)
        extractor = build_extractor(config, run, processes.device)
        check_count(config.n_images, "n_images", extractor, config)
        check_count(config.n_sweep, "n_sweep", extractor, config)
        reference = measure_reference(config, images, extractor, processes)
        run.log_params({**describe_measurement(extractor, generator, reference), "resolved_critic_uri": critic.uri})

        evaluation = SamplerEvaluation(
            config=config,
            generator=generator,
            critic=critic,
            extractor=extractor,
            reference=reference,
            device=processes.device,
        )
        samplers = {name: evaluation.evaluate(name) for name in config.samplers}
        start = samplers[config.samplers[0]].chains.kept[0]  # every sampler starts from these codes
        plain = evaluation.evaluate_plain(start)
        differences = {name: evaluation.difference(plain, result) for name, result in samplers.items()}
        sweeps = sweep(evaluation)

        metrics = metrics_of(plain, samplers, differences)
        run.log_metrics(metrics, step=0)
        log_curves(run, samplers)
        log_figures(run, evaluation=evaluation, plain=plain, samplers=samplers, sweeps=sweeps)
        described = f"{images.source}, split {images.split}"
        run.log_dict({"metrics": metrics, "sweeps": sweeps, "reference": described}, "scores.json")
        summary = summarise(
            config=config,
            score=extractor.score,
            kernel_score=extractor.kernel_score,
            reference=described,
            plain=plain,
            samplers=samplers,
            differences=differences,
            sweeps=sweeps,
        )
        run.log_text(summary, SUMMARY)
        run.finish()
        print(f"\n{summary}\nfeatures: {extractor.family}; resize: {extractor.resize}")
        print(f"run {run.run_id}\nopen it: {run.url()}")
    return 0


def metrics_of(
    plain: SamplerResult, samplers: Mapping[str, SamplerResult], differences: Mapping[str, Difference]
) -> dict[str, float]:
    """The scores of plain sampling and of every sampler, with its difference and its cost, as metrics of the run."""
    metrics = {f"plain_{name}": value for name, value in plain.scores.items()}
    for sampler, result in samplers.items():
        difference, n = differences[sampler], len(result.chains.z)
        values = {
            **result.scores,
            "difference": difference.value,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "seconds_per_sample": result.seconds / n,
            "images_per_sample": result.chains.images / n,
        }
        metrics |= {f"{sampler}_{name}": value for name, value in values.items()}
    return metrics


def log_curves(run: AnyRun, samplers: Mapping[str, SamplerResult]) -> None:
    """The curves of every sampler's chains as metrics over the iteration."""
    for sampler, result in samplers.items():
        for name, values in result.chains.curves.items():
            for iteration, value in enumerate(values, start=1):
                run.log_metrics({f"{sampler}_{name}": value}, step=iteration)


def log_figures(
    run: AnyRun,
    evaluation: SamplerEvaluation,
    plain: SamplerResult,
    samplers: Mapping[str, SamplerResult],
    sweeps: Sweeps,
) -> None:
    """Curves of the chains, grids of images, sweeps."""
    title = f"{evaluation.generator.uri}, {evaluation.reference.images.name}"
    n_iterations = evaluation.config.n_iterations
    chains = plot_chains(samplers, n_iterations, f"{title}: chains against iteration")
    run.log_figure(chains, "figures/chains.png")
    for name, (z, caption) in codes_to_show(plain, samplers).items():
        grid = image_grid(generate(evaluation.generator, z, evaluation.device))
        run.log_figure(plot_image(grid, f"{title}: {caption}"), f"figures/samples_{name}.png")
    distances = (evaluation.extractor.score, evaluation.extractor.kernel_score)
    run.log_figure(plot_sweeps(sweeps, distances, f"{title}: I-SIR, importance weights"), "figures/sweeps.png")


def main(argv: list[str] | None = None) -> int:
    return run_isir_fid(parse_config(IsirFidConfig, PRESETS, sys.argv[1:] if argv is None else argv, "isir_fid"))
