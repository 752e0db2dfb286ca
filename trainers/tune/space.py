"""The language of search spaces: `gp_scale=log:0.1..100, n_dis=1|2|3, n_layers=1..4`.

A parameter is a choice (`a|b|c`), a range (`low..high`, of whole numbers where both ends are), or a range on a
logarithmic scale (`log:low..high`). Trainers declare theirs beside their config, `tune` takes others in its parameter
`space`.
"""

import re
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from common.errors import InputError

Space = dict[str, BaseDistribution]


def split_settings(text: str, where: str) -> dict[str, str]:
    """`a=1, b=x,y` as {"a": "1", "b": "x,y"}: a comma ends a value where another name follows."""
    parts = [part.strip() for part in re.split(r",(?=\s*\w+\s*=)", text) if part.strip()]
    settings = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"\w+", name.strip()) or not value.strip():
            raise InputError(f"{where}: {part!r} is not name=value; separate several by commas")
        if name.strip() in settings:
            raise InputError(f"{where}: {name.strip()} is given twice")
        settings[name.strip()] = value.strip()
    return settings


def parse_space(declared: Mapping[str, str]) -> Space:
    """{name: distribution} of {name: text}; InputError for an empty space and for what is not in the language."""
    if not declared:
        raise InputError(
            "space: there is nothing to search; give at least one parameter, such as gp_scale=log:0.1..100"
        )
    return {name: parse_dimension(name, text) for name, text in declared.items()}


def parse_dimension(name: str, text: str) -> BaseDistribution:
    """The distribution of one parameter."""
    text = text.strip()
    if match := re.fullmatch(r"(log:)?\s*(\S+?)\s*\.\.\s*(\S+)", text):
        log = match[1] is not None
        low, high = _number(match[2]), _number(match[3])
        if low is None or high is None or not low < high or (log and low <= 0):
            above = " above 0" if log else ""
            raise InputError(f"space: {name}={text} is not a range; write low..high, two numbers{above}, low first")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    choices = [choice.strip() for choice in text.split("|") if choice.strip()]
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise InputError(
            f"space: {name}={text} leaves nothing to choose; write a range low..high or log:low..high, or two or more "
            "different choices a|b|c (a fixed value belongs in the parameter fixed)"
        )
    numbers = [_number(choice) for choice in choices]
    return CategoricalDistribution(choices if None in numbers else [n for n in numbers if n is not None])


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """One value of every parameter."""
    return {name: _suggest_one(trial, name, dimension) for name, dimension in space.items()}


def _suggest_one(trial: optuna.Trial, name: str, dimension: BaseDistribution) -> Any:
    if isinstance(dimension, CategoricalDistribution):
        return trial.suggest_categorical(name, dimension.choices)
    if isinstance(dimension, IntDistribution):
        return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    assert isinstance(dimension, FloatDistribution)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def values_within(space: Space, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of the space's parameters if all of them lie in it, else None."""
    found = {}
    for name, distribution in space.items():
        value = values[name]
        if isinstance(distribution, CategoricalDistribution):
            same = [choice for choice in distribution.choices if _plain(choice) == _plain(value)]
            if not same:
                return None
            found[name] = same[0]
        elif isinstance(value, int | float) and distribution.low <= value <= distribution.high:  # type: ignore[attr-defined]
            found[name] = value
        else:
            return None
    return found


def _plain(value: Any) -> str:
    """`0.5,2` for (0.5, 2.0) and for "0.5, 2"."""
    parts = value if isinstance(value, tuple | list) else str(value).split(",")
    numbers = [_number(str(part).strip()) for part in parts]
    return ",".join(str(part).strip() if n is None else f"{n:g}" for part, n in zip(parts, numbers, strict=True))


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
