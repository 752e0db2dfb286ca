"""What the report shows of `fid`."""

from training.section import FIGURES, Panel, Pictures, Section

SECTION = Section(
    title="Image quality: distances to real images",
    place=30,
    params=("resolved_model_uri", "feature_family", "n_images", "reference", "reference_images", "seed"),
    metrics=(
        r"fid|fd_.*(?<!_by_n)",
        r"fid_infinity",
        r"kid|kd_.*",
        r"kid_se",
        r"cmmd.*",
        r"inception_score.*",
        r"precision",
        r"recall",
        r"density",
        r"coverage",
        r"authenticity(_held_out)?",
        r"images_per_second",
    ),
    panels=(Panel("Distance against the number of images", r"(?P<line>.+)_by_n", "generated images"),),
    pictures=(Pictures("Images", r"figures/(generated|reference|closest)\..*"), FIGURES),
)
