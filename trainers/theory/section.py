"""What the report shows of `theory`."""

from training.section import Panel, Section

SECTION = Section(
    title="Theory: distances between parallel segments",
    place=10,
    params=("theta_star", "gp_scale", "seed"),
    metrics=(r"error_.*", r"toy_.*_(near|wasserstein)"),
    panels=(Panel("theta by gradient descent under each distance", r"theta_(?P<line>.+)"),),
)
