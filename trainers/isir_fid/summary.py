"""The summary of isir_fid: the words stand in `summary.md.j2`, what depends on the figures is decided here."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from trainers.isir_fid.config import IsirFidConfig
from trainers.isir_fid.samplers import Difference, SamplerResult
from training.summary import render_summary


def summarise(
    *,
    config: IsirFidConfig,
    score: str,
    kernel_score: str,
    reference: str,
    plain: SamplerResult,
    samplers: Mapping[str, SamplerResult],
    differences: Mapping[str, Difference],
    sweeps: Mapping[str, Sequence[Mapping[str, float]]],
) -> str:
    """The summary in Markdown, made from the figures alone, also where they are bad.

    score, kernel_score: names of the Fréchet and the kernel distance. reference: the reference images in words.
    """
    curves = samplers["importance"].chains.curves if "importance" in samplers else None
    ess = fmean(curves["ess"]) if curves else None
    return render_summary(
        Path(__file__).parent,
        config=config,
        score=score,
        kernel_score=kernel_score,
        reference=reference,
        rows={"plain": plain, **samplers},
        plain=plain,
        samplers=samplers,
        differences=differences,
        helpful=[name for name, difference in differences.items() if difference.high < 0],
        critic_sd=float(plain.chains.value.std()),
        ess=ess,
        moved=fmean(curves["moved"]) if curves else None,
        effect_of_weights=effect_of_weights(ess, config.n_particles + 1) if ess is not None else None,
        squared_norms=squared_norms(plain, samplers),
        sweeps=sweeps,
        percent=percent,
        verdict=verdict,
    )


def verdict(difference: Difference) -> str:
    """What the interval of a difference to plain sampling says; below zero is better."""
    if difference.high < 0:
        return "better than plain sampling"
    return "worse than plain sampling" if difference.low > 0 else "no difference that these images show"


def percent(change: float, before: float) -> float:
    """The change in percent of the value before; NaN where that is 0."""
    return 100 * change / before if before else math.nan


def effect_of_weights(ess: float, particles: int) -> str:
    """What the mean effective number of particles, of `particles`, says about the importance weights."""
    if ess > 0.8 * particles:
        return "close to all: the weights are nearly even, and the correction does little"
    if ess < 1.5:
        return "close to one: each draw takes the critic's favourite"
    return "between the two extremes of no correction and best-of-N"


def squared_norms(plain: SamplerResult, samplers: Mapping[str, SamplerResult]) -> dict[str, float] | None:
    """Mean |z|^2 of plain sampling and at the end of I-SIR with either weight; None unless both weights were run."""
    if not {"importance", "density"} <= set(samplers):
        return None
    final = {name: samplers[name].chains.curves["squared_norm"][-1] for name in ("importance", "density")}
    return {"plain": float(plain.chains.z.square().sum(1).mean()), **final}
