"""The language of search spaces."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from common.errors import InputError
from trainers.tune.space import parse_space, split_settings, values_within


def test_space_is_read_as_written() -> None:
    space = parse_space(
        split_settings("gp_scale=log:0.1..100, n_layers=1..4, n_dis=1|2|5, pool=cls|mean, noise=0,0.1|0,1", "space")
    )
    assert space == {
        "gp_scale": FloatDistribution(0.1, 100, log=True),
        "n_layers": IntDistribution(1, 4),
        "n_dis": CategoricalDistribution([1, 2, 5]),
        "pool": CategoricalDistribution(["cls", "mean"]),
        "noise": CategoricalDistribution(["0,0.1", "0,1"]),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gp_scale=5", ["gp_scale=5", "nothing to choose"]),
        ("gp_scale=3..1", ["gp_scale=3..1", "low first"]),
        ("gp_scale=log:0..1", ["above 0"]),
        ("gp_scale=a..b", ["two numbers"]),
        ("n_dis=1|1", ["different"]),
        ("gp_scale", ["name=value"]),
        ("a=1..2, a=1..3", ["twice"]),
        ("gp_scale=0..inf", ["two numbers"]),
    ],
)
def test_space_refuses_what_is_no_space(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        parse_space(split_settings(text, "space"))
    assert all(word in str(error.value) for word in words), error.value


def test_the_defaults_are_found_in_a_space_or_not_at_all() -> None:
    space = parse_space({"gp_scale": "log:0.1..100", "noise": "0,0.2|0,1", "n_dis": "1|2"})
    found = {"gp_scale": 10.0, "noise": "0,0.2", "n_dis": 2}
    assert values_within(space, {"gp_scale": 10.0, "noise": (0.0, 0.2), "n_dis": 2}) == found
    assert values_within(space, {"gp_scale": 10.0, "noise": (0.0, 0.3), "n_dis": 2}) is None
    assert values_within(space, {"gp_scale": 1000.0, "noise": (0.0, 0.2), "n_dis": 2}) is None
