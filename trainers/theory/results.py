"""All that a run of theory computes, and how it is recorded as numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tracking.run import AnyRun
from trainers.theory.config import TheoryConfig
from trainers.theory.correction import Correction
from trainers.theory.descent import verdict
from trainers.theory.segments import DistanceRow, largest_errors
from trainers.theory.toys import ToyResult


@dataclass
class TheoryResults:
    """rows: the distances. gradients: {offset: {generator loss: its derivative with respect to theta}}.

    paths: {distance: theta - theta_star at every step of gradient descent}. corrected: what I-SIR sampled.
    toys: what it samples in the plane.
    """

    rows: list[DistanceRow] = field(default_factory=list)
    gradients: dict[float, dict[str, float]] = field(default_factory=dict)
    paths: dict[str, list[float]] = field(default_factory=dict)
    corrected: list[Correction] = field(default_factory=list)
    toys: list[ToyResult] = field(default_factory=list)


def log_metrics(run: AnyRun, config: TheoryConfig, results: TheoryResults) -> None:
    """The largest errors, mean and variance after I-SIR, and theta over the step of each descent."""
    metrics = {f"error {way.replace(',', '')}": error for way, (error, _) in largest_errors(results.rows).items()}
    for c in results.corrected:
        metrics[f"isir {c.network} {c.weights} mean"], metrics[f"isir {c.network} {c.weights} variance"] = c.computed
    for found in results.toys:
        for sampler, quality in found.qualities.items():
            for figure, value in asdict(quality).items():
                metrics[f"toy {found.toy.name} {sampler} {figure}"] = value
    run.log_metrics({name.lower().replace(" ", "_"): value for name, value in metrics.items()}, step=0)
    for name, path in results.paths.items():
        key = "theta_" + name.lower().replace(",", "").replace(" ", "_")
        for step, offset in enumerate(path):
            run.log_metrics({key: config.theta_star + offset}, step=step)


def as_dict(config: TheoryConfig, results: TheoryResults) -> dict[str, Any]:
    """Every number, with theta itself in place of its offset from theta_star."""
    return {
        "distances": [
            {
                "distance": row.distance,
                "way": row.way,
                "theta": config.theta_star + row.offset,
                "exact": row.exact,
                "formula": row.formula,
                "computed": row.computed,
                "error": row.error,
            }
            for row in results.rows
        ],
        "gradients": [{"theta": config.theta_star + offset, **slopes} for offset, slopes in results.gradients.items()],
        "descents": {name: verdict(path, config) for name, path in results.paths.items()},
        "corrections": [
            {"network": c.network, "weights": c.weights, "theory": c.theory, "computed": c.computed}
            for c in results.corrected
        ],
        "toys": [
            {
                "toy": found.toy.name,
                "samplers": {name: asdict(quality) for name, quality in found.qualities.items()},
                "weights": {name: asdict(one) for name, one in found.calibrations.items()},
            }
            for found in results.toys
        ],
    }
