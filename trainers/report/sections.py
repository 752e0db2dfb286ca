"""What the report shows of each entry point's runs: which parameters, figures, curves, pictures and texts, and in which
order.

An entry point that is not listed here is shown by `GENERAL`: all that its runs recorded, in the order of names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A chart over the steps of a run.

    metrics: a regular expression for whole names; its group `line`, if it has one, is what a line is called.
    """

    title: str
    metrics: str
    x: str = "step"
    logarithmic: bool = False


@dataclass(frozen=True)
class Scores:
    """A table of the metrics `<row>_<column>`: what the rows are, and regular expressions for both, in the order of
    showing.
    """

    what: str
    columns: tuple[str, ...]
    rows: tuple[str, ...] = (r".+",)


@dataclass(frozen=True)
class Pictures:
    """Image artifacts under one heading: `paths` is a regular expression for whole paths.

    captions: {end of a file's name without its suffix: caption}, in the order of showing; others follow under their own
    names.
    """

    title: str
    paths: str
    captions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """One entry point's part of the report.

    params: always in the table of runs, beside those that differ between its runs. metrics: regular expressions for
    whole names, in the order of columns. steps: regular expression of the time-stepped images. texts: what the run
    wrote about itself.
    sweeps: the JSON artifact whose key `sweeps` has tables. tables: CSV artifacts and their
    titles. settings: the JSON artifact with the best configuration, {"params": {name: value}, "command": ...}.
    """

    title: str
    params: tuple[str, ...] = ()
    metrics: tuple[str, ...] = (r".*",)
    scores: Scores | None = None
    panels: tuple[Panel, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    steps: str = r".*"
    texts: tuple[str, ...] = (r"[^/]*\.md",)
    sweeps: str | None = None
    tables: tuple[tuple[str, str], ...] = ()
    settings: str | None = None
    drawn_anew: tuple[str, ...] = ()
    """Figures of the run that the report draws from the metrics instead."""


FIGURES = Pictures("Figures", r"figures/.*")

EEG_SCORES = Scores(
    "classifier",
    (
        "subject_mean",
        "subject_low",
        "subject_high",
        "trial_accuracy",
        "trial_balanced_accuracy",
        "trial_f1",
        "trial_f1_macro",
        "trial_roc_auc",
        "trial_kappa",
        "trial_calibration_error",
        "window_accuracy",
    ),
)
EEG_PICTURES = (Pictures("Confusion matrices", r"figures/.*confusion_[^/]*"), FIGURES)
EEG_PARAMS = ("preset", "dataset", "subjects", "split", "n_folds", "seed")

GENERAL = Section("", pictures=(Pictures("Confusion matrices", r"figures/.*confusion_[^/]*"), FIGURES))

SECTIONS: dict[str, Section] = {
    "theory": Section(
        "Theory: distances between parallel segments",
        params=("theta_star", "gp_scale", "seed"),
        metrics=(r"error_.*",),
        panels=(Panel("theta by gradient descent under each distance", r"theta_(?P<line>.+)"),),
        pictures=(FIGURES,),
    ),
    "wgan": Section(
        "WGAN-GP: training",
        params=("preset", "dataset", "image_size", "ngf", "ndf", "steps", "batch_size", "n_dis", "gp_scale", "seed"),
        metrics=(
            "wasserstein_train",
            "wasserstein_held_out",
            "wasserstein_gap",
            "critic_loss",
            "generator_loss",
            "gradient_penalty",
            "images_per_second",
        ),
        panels=(
            Panel("Losses", r"(?P<line>critic|generator)_loss"),
            Panel("Gradient penalty", r"(?P<line>gradient_penalty|input_gradient_norm)"),
            Panel("Wasserstein estimate, E D(real) - E D(fake)", r"wasserstein_estimate"),
        ),
        pictures=(
            Pictures(
                "Samples",
                r"figures/samples_.*",
                (("samples_ema", "moving average of the generator"), ("samples_raw", "generator as trained")),
            ),
            FIGURES,
        ),
        drawn_anew=("figures/loss_curves.png",),
    ),
    "fid": Section(
        "Image quality: distances to real images",
        params=("resolved_model_uri", "features", "n_images", "reference", "reference_images", "seed"),
        metrics=(
            r"fid|fd_.*(?<!_by_n)",
            r"fid_infinity",
            r"kid|kd_.*",
            r"kid_se",
            r"inception_score.*",
            r"precision",
            r"recall",
            r"images_per_second",
        ),
        panels=(Panel("Distance against the number of images", r"(?P<line>.+)_by_n", "generated images"),),
        pictures=(Pictures("Images", r"figures/(generated|reference)\..*"), FIGURES),
    ),
    "isir_fid": Section(
        "I-SIR: correction of the latent distribution",
        params=("resolved_model_uri", "features", "n_images", "n_iterations", "n_particles", "beta", "seed"),
        metrics=tuple(
            rf"{name}_(fid|fd_\w+?(?<!_infinity))" for name in ("plain", "importance", "density", "ex2mcmc", "mala")
        ),
        scores=Scores(
            "sampler",
            (
                r"fid|fd_\w+",
                "difference",
                "difference_low",
                "difference_high",
                r"kid|kd_\w+",
                r"inception_score\w*",
                "precision",
                "recall",
                "images_per_sample",
                "seconds_per_sample",
            ),
            ("plain", "importance", "density", "ex2mcmc", "mala"),
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
                    ("samples_importance", "after: importance weights"),
                    ("samples_density", "after: density weights"),
                    ("samples_ex2mcmc", "after: Ex2MCMC"),
                    ("samples_mala", "after: MALA"),
                    ("samples_critic_worst", "plain, the critic likes least"),
                    ("samples_critic_best", "plain, the critic likes most"),
                ),
            ),
            FIGURES,
        ),
        sweeps="scores.json",
        drawn_anew=("figures/chains.png",),
    ),
    "eeg_transformer": Section(
        "EEG: Transformer",
        params=(*EEG_PARAMS, "attention"),
        metrics=(
            "transformer_subject_mean",
            "transformer_subject_low",
            "transformer_subject_high",
            r"leakage_check_accuracy",
        ),
        scores=EEG_SCORES,
        panels=(
            Panel("Loss of the Transformer", r"transformer_(?P<line>fold\d+_(train|validation))_loss", "epoch"),
            Panel("Accuracy of the Transformer", r"transformer_(?P<line>fold\d+_(train|validation))_accuracy", "epoch"),
        ),
        pictures=EEG_PICTURES,
        drawn_anew=("figures/loss_curves.png",),
    ),
    "eeg_simclr": Section(
        "EEG: contrastive learning (SimCLR)",
        params=EEG_PARAMS,
        metrics=("simclr_subject_mean", "scratch_subject_mean", "frozen_subject_mean", "leakage_check_accuracy"),
        scores=EEG_SCORES,
        panels=(
            Panel("Contrastive loss of pre-training", r"pretrain_(?P<line>fold_\d+_(train|validation))_loss", "epoch"),
            Panel("Loss of fine-tuning", r"simclr_(?P<line>fold\d+_(train|validation))_loss", "epoch"),
        ),
        pictures=EEG_PICTURES,
        drawn_anew=("figures/loss_curves.png",),
    ),
    "efficient_attention": Section(
        "Efficient attention",
        params=(*EEG_PARAMS, "mechanisms"),
        metrics=(r"(sdpa|linear|nystrom|none)_subject_mean",),
        scores=EEG_SCORES,
        panels=(
            Panel("Milliseconds of an encoder layer", r"(?P<line>.+)_milliseconds", "tokens", logarithmic=True),
            Panel("Growth of peak memory, megabytes", r"(?P<line>.+)_megabytes", "tokens", logarithmic=True),
        ),
        pictures=EEG_PICTURES,
        drawn_anew=("figures/seconds.png", "figures/memory.png", "figures/loss_curves.png"),
    ),
    "tune": Section(
        "Tuning: searches of parameters",
        params=("target", "preset", "n_trials", "pruner", "seed"),
        metrics=(r"winner_.*", r"test_.*", r"\w+_subject_mean", r"best_.*"),
        panels=(Panel("Best validation figure so far", r"best_(?P<line>.+)", "trials done"),),
        pictures=(
            Pictures("History of the search", r"figures/(history|intermediate_values).*"),
            Pictures("What mattered", r"figures/(importances|slices).*"),
            Pictures("Accuracy against cost", r"figures/pareto_front.*"),
            FIGURES,
        ),
        tables=(
            ("trials.csv", "All trials, one seed each, on validation data"),
            ("repeats.csv", "The best few, repeated with other seeds"),
        ),
        settings="best.json",
    ),
}
