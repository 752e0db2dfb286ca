"""The summary of theory: the words stand in `summary.md.j2`, what depends on the figures is decided here."""

import math
from pathlib import Path

from trainers.theory.config import TheoryConfig
from trainers.theory.descent import verdict
from trainers.theory.networks import GENERATOR_LOSSES
from trainers.theory.results import TheoryResults
from trainers.theory.segments import largest_errors
from training.summary import render_summary

ORDER = ("KL", "JS", "Wasserstein")


def summarise(config: TheoryConfig, results: TheoryResults) -> str:
    """The tables and the answer in words, in Markdown, from the figures alone.

    Of the smoothed distances only those with the smallest sigma are shown; the largest errors are over all.
    """
    sharpest = f"sigma {min(config.sigmas):g}"
    shown = [row for row in results.rows if not row.way.startswith("smoothed") or row.way.endswith(sharpest)]
    verdicts = {name: verdict(path, config) for name, path in results.paths.items()}
    return render_summary(
        Path(__file__).parent,
        config=config,
        rows=sorted(shown, key=lambda row: (ORDER.index(row.distance), row.way)),
        errors=largest_errors(results.rows),
        losses=list(GENERATOR_LOSSES),
        gradients=results.gradients,
        verdicts=verdicts,
        arrived=[name for name, found in verdicts.items() if found == "arrived"],
        corrected=results.corrected,
        toys=results.toys,
        distance=distance_text,
    )


def distance_text(value: float) -> str:
    """A distance with four digits; what rounding left of 0 as 0."""
    return "infinite" if math.isinf(value) else f"{0 if abs(value) < 1e-12 else value:.4g}"
