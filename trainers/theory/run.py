"""Answer the exercise's theoretical part and check the answers by computation: `mlflow run . -e theory`.

Two distributions on parallel segments, (x, theta) and (x, theta_star) with x ~ U(0, 1): config -> each distance by its
formula and by computation, over thetas -> gradient descent on theta under each distance -> what I-SIR samples with a
discriminator's logit and with a critic -> the same on data in the plane with gaps -> figures -> summary. docs/theory.md
derives what is checked here.
"""

import sys
from itertools import product

from common.progress import Progress
from tracking.run import start_run
from trainers.theory.config import TheoryConfig
from trainers.theory.correction import corrections
from trainers.theory.descent import descend, distance_slopes
from trainers.theory.figures import plot_corrections, plot_descents, plot_distances, plot_gradients, plot_toys
from trainers.theory.networks import KINDS
from trainers.theory.results import TheoryResults, as_dict, log_metrics
from trainers.theory.segments import network_row, smoothed_rows, transport_rows
from trainers.theory.summary import summarise
from trainers.theory.toys import correct_toys
from training.config import as_params, parse_config
from training.summary import SUMMARY


def run_theory(config: TheoryConfig) -> int:
    """Compute the distances, the descents and the corrections, and record them; the exit status."""
    with start_run(
        entry_point="theory",
        params=as_params(config),
        tags={"device": "cpu"},
        output_dir=config.output_dir,
        run_name=config.run_name,
    ) as run:
        slopes = distance_slopes(config)
        progress = Progress(2 * len(config.offsets) + len(slopes) + 4, unit="part")

        results = TheoryResults(rows=smoothed_rows(config) + transport_rows(config))
        for offset, kind in product(config.offsets, KINDS):
            row, derivatives = network_row(config, kind, offset)
            results.rows.append(row)
            results.gradients.setdefault(offset, {}).update(derivatives)
            progress.advance(note=f"{kind}, offset {offset:g}")
        for name, slope in slopes.items():
            results.paths[name] = descend(config, slope)
            progress.advance(note=f"descent, {name}")
        for correction in corrections(config):
            results.corrected.append(correction)
            progress.advance(note=f"I-SIR, {correction.network}")
        progress.close()
        results.toys.extend(correct_toys(config))

        log_metrics(run, config, results)
        run.log_dict(as_dict(config, results), "theory.json")
        run.log_figure(plot_distances(results.rows, config.sigmas, config.gp_scale), "figures/distances.png")
        run.log_figure(plot_gradients(results.gradients), "figures/gradients.png")
        run.log_figure(plot_descents(results.paths, config.start), "figures/descents.png")
        run.log_figure(plot_corrections(results.corrected, config.start, config.noise), "figures/corrections.png")
        if results.toys:
            run.log_figure(plot_toys(results.toys), "figures/toys.png")
        summary = summarise(config, results)
        run.log_text(summary, SUMMARY)
        run.finish()
        print(f"\n{summary}\nrun {run.run_id}\nopen it: {run.url()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_theory(parse_config(TheoryConfig, {}, sys.argv[1:] if argv is None else argv, "theory"))
