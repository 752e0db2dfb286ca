"""What the report shows of every EEG trainer's runs."""

from training.section import CONFUSION_MATRICES, FIGURES, Scores

PARAMS = ("preset", "dataset", "subjects", "split", "n_folds", "seed")

SCORES = Scores(
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

PICTURES = (CONFUSION_MATRICES, FIGURES)
