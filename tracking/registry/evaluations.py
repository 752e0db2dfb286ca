"""What was measured of a registered model, kept as tags of its version, to compare versions by."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.files import hash_of

PREFIX = "evaluation."


@dataclass(frozen=True)
class Evaluation:
    """One figure and all that it depends on but the model.

    metric: its name, as in the run's metrics. conditions: JSON values (data fingerprint, split, number of images, ...);
    two figures compare if their metric and conditions are equal. measured_by, time: the run that measured it and when
    (seconds since the epoch); `evaluation_tags` fills them in.
    """

    metric: str
    value: float
    higher_is_better: bool
    conditions: Mapping[str, Any]
    measured_by: str = ""
    time: float = 0.0

    @property
    def tag(self) -> str:
        """The tag's name: another figure of the same metric under the same conditions takes its place."""
        return f"{PREFIX}{self.metric}.{hash_of(dict(self.conditions))[:12]}"


def evaluation_tags(evaluations: Iterable[Evaluation], run_id: str) -> dict[str, str]:
    """Tags of a model version: {name: JSON}. NaN and infinity are left out: nothing compares with them."""
    now = round(time.time(), 3)
    return {
        found.tag: json.dumps({**asdict(found), "measured_by": run_id, "time": now})
        for found in evaluations
        if math.isfinite(found.value)
    }


def attributed(tags: Mapping[str, str], run_id: str) -> dict[str, str]:
    """`tags` with `run_id` in every evaluation: a run that was started while its server was away did not know it."""
    return {
        name: json.dumps({**json.loads(text), "measured_by": run_id}) if name.startswith(PREFIX) else text
        for name, text in tags.items()
    }


def evaluations_in(tags: Mapping[str, str]) -> dict[str, Evaluation]:
    """The evaluations in a version's tags, {name of the tag: evaluation}, the oldest first."""
    found = {}
    for name, text in tags.items():
        if name.startswith(PREFIX):
            try:
                evaluation = Evaluation(**json.loads(text))
                if math.isfinite(evaluation.value) and math.isfinite(evaluation.time):
                    found[name] = evaluation
            except (ValueError, TypeError):  # a tag that somebody wrote by hand
                continue
    return dict(sorted(found.items(), key=lambda item: item[1].time))
