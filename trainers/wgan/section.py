"""What the report shows of `wgan`."""

from training.section import FIGURES, Panel, Pictures, Section

SECTION = Section(
    title="WGAN-GP: training",
    place=20,
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
)
