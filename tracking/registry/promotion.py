"""Promotion: a version becomes champion if it is not worse than the champion in the same evaluation."""

import re
from typing import Any

from common.errors import InputError
from tracking import store
from tracking.registry.evaluations import Evaluation, evaluations_in
from tracking.registry.models import pinned

CHAMPION = "champion"


def promote(uri: str, metric: str | None = None, alias: str = CHAMPION) -> int:
    """Move `alias` of the registered model to the version at `uri`; prints one line. 0 if it has the alias now, 1 if it
    is worse.

    metric: what to compare by; not given: the one metric that the version was evaluated by. Raises InputError where
    there is no such version or nothing that compares.
    """
    match = re.fullmatch(r"models:/([^/@]+)/(\d+)", pinned(uri))
    if match is None:
        raise InputError(f"{uri}: not a registered version; give models:/name/version or models:/name@alias")
    name, number = match[1], match[2]
    try:
        client = store.connect(store.tracking_uri())
        candidate = client.get_model_version(name, number)
        held_by = client.get_registered_model(name).aliases.get(alias)
        champion = client.get_model_version(name, str(held_by)) if held_by is not None else None
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model {uri}: {store.reason(error)} (store {store.shown()})") from None
    if champion is not None and str(champion.version) == number:
        print(f"{name}: version {number} is {alias} already")
        return 0

    new, old = comparable(name, candidate=candidate, champion=champion, metric=metric, alias=alias)
    figure = f"{new.metric} {new.value:.5g}"
    if old is not None:
        worse = new.value < old.value if new.higher_is_better else new.value > old.value
        figure += (
            f" against {old.value:.5g} of version {held_by} ({'higher' if new.higher_is_better else 'lower'} is better)"
        )
        if worse:
            print(f"{name}: version {number} is not promoted: {figure}; {alias} stays version {held_by}")
            return 1
    try:
        client.set_model_version_tag(name, number, f"{alias}.took_over_from", str(held_by or "none"))
        client.set_registered_model_alias(name, alias, number)
    except Exception as error:
        raise InputError(f"model {uri}: {store.reason(error)} (store {store.shown()})") from None
    print(f"{name}: version {number} is {alias} now: {figure}" + ("" if old else "; it had no predecessor"))
    return 0


def comparable(
    name: str, candidate: Any, champion: Any, metric: str | None, alias: str
) -> tuple[Evaluation, Evaluation | None]:
    """The figures to compare: (the candidate's, the champion's or None where there is no champion).

    Raises InputError where there are none under the same conditions, with what differs.
    """
    mine = evaluations_in(candidate.tags)
    if not mine:
        raise InputError(
            f"{name} version {candidate.version} was never evaluated: measure it first (for a generator: python -m "
            f"trainers.fid --model_uri models:/{name}/{candidate.version})"
        )
    metrics = sorted({found.metric for found in mine.values()})
    if metric is None:
        if len(metrics) > 1:
            raise InputError(
                f"metric: version {candidate.version} was evaluated by {', '.join(metrics)}; choose one by --metric"
            )
        metric = metrics[0]
    elif metric not in metrics:
        raise InputError(
            f"metric: version {candidate.version} was not evaluated by {metric!r}; allowed: {', '.join(metrics)}"
        )
    mine = {tag: found for tag, found in mine.items() if found.metric == metric}
    if champion is None:
        return list(mine.values())[-1], None
    theirs = {tag: found for tag, found in evaluations_in(champion.tags).items() if found.metric == metric}
    common = [tag for tag in mine if tag in theirs]
    if common:
        return mine[common[-1]], theirs[common[-1]]
    if not theirs:
        raise InputError(
            f"{name}: {alias}, version {champion.version}, was never evaluated by {metric}: evaluate it in the same "
            "way first"
        )
    a, b = list(mine.values())[-1].conditions, list(theirs.values())[-1].conditions
    differs = [
        f"{key}: {b.get(key)!r} for {alias}, {a.get(key)!r} here"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]
    raise InputError(
        f"{name}: {metric} of version {candidate.version} and of {alias}, version {champion.version}, cannot be "
        f"compared ({'; '.join(differs)}): evaluate both in the same way"
    )
