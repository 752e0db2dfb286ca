"""What the report shows of `efficient_attention`."""

from training.eeg.section import PARAMS, PICTURES, SCORES
from training.section import Panel, Section

SECTION = Section(
    title="Efficient attention",
    place=70,
    params=(*PARAMS, "mechanisms"),
    metrics=(r"(sdpa|linear|delta|nystrom|none)_subject_mean",),
    scores=SCORES,
    panels=(
        Panel("Milliseconds of an encoder layer", r"(?P<line>.+)_milliseconds", "tokens", logarithmic=True),
        Panel("Growth of peak memory, megabytes", r"(?P<line>.+)_megabytes", "tokens", logarithmic=True),
    ),
    pictures=PICTURES,
    drawn_anew=("figures/seconds.png", "figures/memory.png", "figures/loss_curves.png"),
)
