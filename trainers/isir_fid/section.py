"""What the report shows of `isir_fid`."""

from trainers.isir_fid.config import SAMPLERS
from training.section import FIGURES, Panel, Pictures, Scores, Section

COMPARED = ("plain", *SAMPLERS)

SECTION = Section(
    title="I-SIR: correction of the latent distribution",
    place=40,
    params=("resolved_model_uri", "feature_family", "n_images", "n_iterations", "n_particles", "beta", "seed"),
    metrics=tuple(rf"{name}_(fid|fd_\w+?(?<!_infinity))" for name in COMPARED),
    scores=Scores(
        "sampler",
        (
            r"fid|fd_\w+",
            "difference",
            "difference_low",
            "difference_high",
            "held_out_difference",
            "held_out_difference_low",
            "held_out_difference_high",
            r"kid|kd_\w+",
            r"inception_score\w*",
            "precision",
            "recall",
            "images_per_sample",
            "seconds_per_sample",
        ),
        COMPARED,
    ),
    panels=(
        Panel("Effective particles", r"(?P<line>.+)_ess", "iteration"),
        Panel("Share of chains that move", r"(?P<line>.+)_moved", "iteration"),
        Panel("Mean critic value", r"(?P<line>.+)_critic", "iteration"),
        Panel("Mean |z|²", r"(?P<line>.+)_squared_norm", "iteration"),
    ),
    pictures=(
        Pictures(
            "Samples before and after correction",
            r"figures/samples_.*",
            (
                ("samples_plain", "before: plain samples"),
                ("samples_calibrated", "after: calibrated density ratio"),
                ("samples_importance", "after: importance weights"),
                ("samples_density", "after: density weights"),
                ("samples_ex2mcmc", "after: Ex2MCMC"),
                ("samples_mala", "after: MALA"),
                ("samples_rated_lowest", "plain, rated lowest"),
                ("samples_rated_highest", "plain, rated highest"),
            ),
        ),
        FIGURES,
    ),
    sweeps="scores.json",
    drawn_anew=("figures/chains.png",),
)
