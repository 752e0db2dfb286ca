"""What the report shows of `eeg_simclr`."""

from training.eeg.section import PARAMS, PICTURES, SCORES
from training.section import Panel, Section

SECTION = Section(
    title="EEG: contrastive learning (SimCLR)",
    place=60,
    params=(*PARAMS, "test_subjects", "pretext"),
    metrics=("simclr_subject_mean", "scratch_subject_mean", "frozen_subject_mean", "leakage_check_accuracy"),
    scores=SCORES,
    panels=(
        Panel("Contrastive loss of pre-training", r"pretrain_(?P<line>fold_\d+_(train|validation))_loss", "epoch"),
        Panel("Loss of fine-tuning", r"simclr_(?P<line>fold\d+_(train|validation))_loss", "epoch"),
    ),
    pictures=PICTURES,
    drawn_anew=("figures/loss_curves.png",),
)
