"""The summary of isir_fid: the words stand in `summary.md.j2`, what depends on the figures is decided here."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from evaluation.calibration import Calibration, in_words
from trainers.isir_fid.samplers import Difference, Findings, SamplerEvaluation
from training.summary import render_summary


def summarise(evaluation: SamplerEvaluation, found: Findings, calibrations: Mapping[str, Calibration]) -> str:
    """The summary in Markdown, made from the figures alone, also where they are bad."""
    config, headline = evaluation.config, evaluation.headline
    curves = found.samplers[headline].chains.curves if headline in found.samplers else {}
    ess = fmean(curves["ess"]) if "ess" in curves else None
    return render_summary(
        Path(__file__).parent,
        config=config,
        headline=headline,
        score=evaluation.extractor.score,
        kernel_score=evaluation.extractor.kernel_score,
        reference=evaluation.described,
        held_out=None if evaluation.held_out is None else describe_held_out(evaluation),
        found=found,
        rows={"plain": found.plain, **found.samplers},
        calibrations=calibrations,
        words={name: in_words(one, f"the {name.replace('_', ' ')}") for name, one in calibrations.items()},
        conclusion=conclusion(found, headline),
        few_images=config.n_images < 10 * evaluation.extractor.dim,
        dimensions=evaluation.extractor.dim,
        too_few=fewest_images(evaluation) <= evaluation.extractor.dim,
        value_sd=float(found.plain.chains.value.std()),
        ess=ess,
        moved=fmean(curves["moved"]) if "moved" in curves else None,
        effect_of_weights=effect_of_weights(ess, config.n_particles + 1) if ess is not None else None,
        squared_norms=squared_norms(found),
        percent=percent,
        verdict=verdict,
    )


def describe_held_out(evaluation: SamplerEvaluation) -> str:
    """The second reference in words: how many images, and who has not seen them."""
    assert evaluation.held_out is not None
    images = evaluation.held_out.images
    unseen = (
        "neither generator nor critic nor density ratio has" if images.split == "test" else "the density ratio has not"
    )
    return f"{len(evaluation.held_out.rows):,} images of {images.source} that {unseen} seen"


def fewest_images(evaluation: SamplerEvaluation) -> int:
    """The smallest number of images that a Fréchet distance of the run is computed from."""
    references = [len(one.rows) for one in (evaluation.reference, evaluation.held_out) if one is not None]
    return min(evaluation.config.n_images, evaluation.config.n_sweep, *references)


def conclusion(found: Findings, headline: str) -> str:
    """What the headline's sampler gained, and what the others did, in sentences."""
    better: list[str] = []
    worse: list[str] = []
    undecided: list[str] = []
    for name in found.samplers:
        both = [d[name] for d in (found.differences, found.held_out_differences) if name in d]
        group = better if all(d.high < 0 for d in both) else worse if any(d.low > 0 for d in both) else undecided
        group.append(name)
    where = "on both references" if found.held_out_differences else "on the one reference"
    sentences = []
    if headline in better:
        sentences.append(f"**It helped**: {headline} is below plain sampling {where}, with intervals below zero.")
    elif headline in found.samplers:
        sentences.append(f"**It did not help**: {headline} is not shown to be below plain sampling {where}.")
    others = [
        f"{', '.join(names)} {what}"
        for names, what in (
            ([name for name in better if name != headline], f"better than plain sampling {where}"),
            ([name for name in undecided if name != headline], "no difference that is shown on all references"),
            ([name for name in worse if name != headline], "worse than plain sampling"),
        )
        if names
    ]
    if others:
        sentences.append(f"The others: {'; '.join(others)}.")
    if len(found.samplers) > 1:
        sentences.append(
            f"These are {len(found.samplers)} tests, one for each sampler: one interval alone is weak evidence."
        )
    return " ".join(sentences)


def verdict(difference: Difference) -> str:
    """What the interval of a difference to plain sampling says; below zero is better."""
    if difference.high < 0:
        return "better than plain sampling"
    return "worse than plain sampling" if difference.low > 0 else "no difference that these images show"


def percent(change: float, before: float) -> float:
    """The change in percent of the value before; NaN where that is 0."""
    return 100 * change / before if before else math.nan


def effect_of_weights(ess: float, particles: int) -> str:
    """What the mean effective number of particles, of `particles`, says about the weights."""
    if ess > 0.8 * particles:
        return "close to all: the weights are nearly even, and the correction does little"
    if ess < 1.5:
        return "close to one: each draw takes the particle rated highest"
    return "between the two extremes of no correction and best-of-N"


def squared_norms(found: Findings) -> dict[str, float] | None:
    """Mean |z|^2 of plain sampling and at the end of I-SIR by the critic; None unless both weights of it were run."""
    if not {"importance", "density"} <= set(found.samplers):
        return None
    final = {name: found.samplers[name].chains.curves["squared_norm"][-1] for name in ("importance", "density")}
    return {"plain": float(found.plain.chains.z.square().sum(1).mean()), **final}
