"""What a study found: which trials are best, and what the summary says of the defaults."""

from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from trainers.tune.findings import Candidate, best_value, ranked, study_summary


def test_the_best_come_first_and_the_front_before_all_others() -> None:
    one = optuna.create_study(direction="maximize")
    for value in (0.1, 0.9, float("inf"), 0.5):
        one.add_trial(optuna.create_trial(value=value))
    assert [t.number for t in ranked(one, one.trials)] == [1, 3, 0]
    assert best_value(one, one.trials) == 0.9
    assert best_value(one, one.trials[2:3]) is None
    two = optuna.create_study(directions=["maximize", "minimize"])
    for values in ((0.8, 5.0), (0.9, 9.0), (0.85, 9.5), (0.7, 1.0)):
        two.add_trial(optuna.create_trial(values=values))
    assert [t.number for t in ranked(two, two.trials)] == [1, 0, 3, 2]
    assert Candidate(0, {}, {1: (1.0,), 2: (3.0,)}).mean() == 2.0


def summary_of(defaults: dict[str, Any] | None, candidates: list[Candidate], state: TrialState) -> str:
    """The summary of a study whose trial 0, in `state`, has the defaults, and whose trial 1 won."""
    study = optuna.create_study()
    study.set_user_attr("defaults", defaults)
    for params, how in (({"x": 1.0}, state), ({"x": 2.0}, TrialState.COMPLETE)):
        value = 0.5 if how == TrialState.COMPLETE else None
        dimensions = {"x": FloatDistribution(0, 9)}
        study.add_trial(optuna.create_trial(state=how, value=value, params=params, distributions=dimensions))
    return study_summary(
        study,
        objectives=["loss"],
        space={"x": "0..9"},
        candidates=candidates,
        winner=candidates[-1],
        final={"settings": {}, "command": "train"},
        tested={},
        models=[],
    )


def test_the_summary_tells_defaults_outside_the_space_from_defaults_given_up() -> None:
    outside, no_repetition = "do not lie in this space", "no repetition of the defaults was completed"
    winner = Candidate(1, {"x": 2.0}, {1: (0.4,), 2: (0.6,)})
    text = summary_of(None, [winner], TrialState.COMPLETE)
    assert outside in text
    for state in (TrialState.PRUNED, TrialState.FAIL):
        text = summary_of({"x": 1.0}, [winner], state)
        assert outside not in text
        assert "trial of the trainer's defaults was given up, refused or failed" in text
    for by_seed in ({}, {3: (0.1,)}):
        text = summary_of({"x": 1.0}, [Candidate(0, {"x": 1.0}, by_seed), winner], TrialState.COMPLETE)
        assert no_repetition in text
        assert outside not in text
    text = summary_of({"x": 1.0}, [Candidate(0, {"x": 1.0}, {1: (0.5,)}), winner], TrialState.COMPLETE)
    assert "loss -0.1 on average, better in 1 of 1" in text


def test_the_summary_has_a_row_for_each_trial_and_candidate() -> None:
    base, winner = Candidate(0, {"x": 1.0}, {1: (0.5,)}), Candidate(1, {"x": 2.0}, {1: (0.25,), 2: (0.75,)})
    text = summary_of({"x": 1.0}, [base, winner], TrialState.COMPLETE)
    assert "| trial | loss | x |\n|---|---|---|\n| 0 (defaults) | 0.5 | 1 |\n| 1 | 0.5 | 2 |\n\n" in text
    assert (
        "| trial | loss, mean | sd |\n|---|---|---|\n| 0 (defaults) | 0.5 |  |\n| 1 **winner** | 0.5 | 0.3536 |\n"
        in text
    )
    assert "\n\n\n" not in text
