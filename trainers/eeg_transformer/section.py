"""What the report shows of `eeg_transformer`."""

from training.eeg.section import PARAMS, PICTURES, SCORES
from training.section import Panel, Section

SECTION = Section(
    title="EEG: Transformer",
    place=50,
    params=(*PARAMS, "test_subjects", "network", "attention"),
    metrics=(
        "transformer_subject_mean",
        "transformer_subject_low",
        "transformer_subject_high",
        "leakage_check_accuracy",
    ),
    scores=SCORES,
    panels=(
        Panel("Loss of the Transformer", r"transformer_(?P<line>fold\d+_(train|validation))_loss", "epoch"),
        Panel("Accuracy of the Transformer", r"transformer_(?P<line>fold\d+_(train|validation))_accuracy", "epoch"),
    ),
    pictures=PICTURES,
    drawn_anew=("figures/loss_curves.png",),
)
