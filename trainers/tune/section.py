"""What the report shows of a study."""

from training.section import FIGURES, Panel, Pictures, Section

SECTION = Section(
    title="Tuning: searches of parameters",
    place=80,
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
)
