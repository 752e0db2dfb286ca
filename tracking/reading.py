"""Reads what runs recorded: parameters, metric histories and artifacts. Changes nothing in the store."""

import functools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import InputError

RUNS_PER_REQUEST = 1000
"""Runs that are asked for at a time."""

MAX_ARTIFACTS = 2000
"""Artifacts of a run that are listed at most."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class RecordedRun:
    """What the store says about a run, without its histories and artifacts.

    Attributes:
        entry_point: the tag of that name, else what `mlflow run` calls it, else the empty string.
        seconds: how long it took; None while it runs.
        started: seconds since 1970.
        metrics: the last value of each.
        last_steps: the step of that value.
        children: number of runs that name this one as their parent, such as the trials of a study.
        page: the address of the run's page below a tracking server's (`#/experiments/1/runs/...`).
    """

    run_id: str
    name: str
    experiment: str
    entry_point: str
    status: str
    started: float
    seconds: float | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    last_steps: Mapping[str, int]
    tags: Mapping[str, str]
    parent: str | None
    children: int
    page: str


class Reader:
    """A read-only view of one store. Every method raises InputError, in one line, where the store does not answer."""

    def __init__(self, uri: str | None = None) -> None:
        # Imported here: two seconds that a bad parameter need not wait for.
        from tracking import store

        uri = uri or store.tracking_uri()
        self.uri = store.without_secrets(uri)
        store.use(uri)  # artifacts are looked for in MLflow's own default store
        self._client = self._asking(store.connect, uri)
        self._experiments: dict[str, str] = {}
        self._sizes: dict[tuple[str, str], int] = {}  # of artifacts that were listed

    def experiments(self) -> list[str]:
        """Names of the experiments that are not deleted."""
        return [str(found.name) for found in self._asking(self._client.search_experiments)]

    def surrounding_experiment(self) -> str | None:
        """The experiment of the run that `mlflow run` made for this process; None without one."""
        run_id = os.environ.get("MLFLOW_RUN_ID")
        return self.run(run_id).experiment if run_id else None

    def runs(self, experiment: str) -> list[RecordedRun]:
        """The runs of an experiment that are not deleted, newest first. Raises InputError if there is no such
        experiment.
        """
        found = self._asking(self._client.get_experiment_by_name, experiment)
        if found is None or found.lifecycle_stage == "deleted":
            raise InputError(
                f"experiment {experiment!r} is not in {self.uri}; it has: {', '.join(sorted(self.experiments()))}; "
                "set MLFLOW_TRACKING_URI for another store"
            )
        self._experiments[found.experiment_id] = experiment
        stored = list(self._pages(found.experiment_id))
        children = Counter(run.data.tags.get("mlflow.parentRunId") for run in stored)
        return [self._recorded(run, children[run.info.run_id]) for run in stored]

    def run(self, run_id: str) -> RecordedRun:
        """One run by its id. Raises InputError if the store has none of that id."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_id):
            raise InputError(f"{run_id!r} is not a run id (32 letters and digits)")
        run = self._asking(
            self._client.get_run,
            run_id,
            absent=f"run {run_id} is not in {self.uri}: give the id of a run of this store",
        )
        if run.info.experiment_id not in self._experiments:
            name = self._asking(self._client.get_experiment, run.info.experiment_id).name
            self._experiments[run.info.experiment_id] = str(name)
        return self._recorded(run, 0)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of every point of a metric in order of steps; of several at one step the last recorded."""
        points = self._asking(self._client.get_metric_history, run_id, metric)
        return list({point.step: point.value for point in sorted(points, key=lambda p: (p.step, p.timestamp))}.items())

    def artifacts(self, run_id: str) -> list[str]:
        """Paths of the run's artifact files, sorted; models' and checkpoints' folders are left out.

        Empty where the artifacts can't be reached (a store whose folder was moved).
        """
        found: list[str] = []
        folders = [""]
        while folders and len(found) < MAX_ARTIFACTS:
            folder = folders.pop()
            for file in self._asking(self._client.list_artifacts, run_id, folder or None):
                if not file.is_dir:
                    found.append(str(file.path))
                    self._sizes[run_id, str(file.path)] = file.file_size or 0
                elif file.path.split("/")[0] not in ("models", "checkpoints"):
                    folders.append(str(file.path))
        return sorted(found)

    def read(self, run_id: str, path: str, limit: int = 20_000_000) -> bytes | None:
        """The bytes of an artifact; None where it can't be had or is larger than `limit`."""
        if self._sizes.get((run_id, path), 0) > limit:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = Path(self._client.download_artifacts(run_id, path, folder))
                return file.read_bytes() if file.stat().st_size <= limit else None
            except Exception:  # of whatever store the artifacts are in: S3, HTTP, a folder that is gone
                return None

    def text(self, run_id: str, path: str) -> str | None:
        """A text artifact; None where it can't be had."""
        data = self.read(run_id, path)
        return None if data is None else data.decode(errors="replace")

    def _pages(self, experiment_id: str) -> Iterator[Any]:
        search = functools.partial(
            self._client.search_runs,
            [experiment_id],
            max_results=RUNS_PER_REQUEST,
            order_by=["attributes.start_time DESC"],
        )
        token = None
        while True:
            page = self._asking(search, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _recorded(self, run: Any, children: int) -> RecordedRun:
        from tracking import store

        info, tags = run.info, dict(run.data.tags)
        ended = (
            info.end_time and info.status != "RUNNING"
        )  # a resumed run keeps the time at which it was stopped before
        return RecordedRun(
            run_id=info.run_id,
            name=info.run_name or info.run_id,
            experiment=self._experiments[info.experiment_id],
            entry_point=tags.get("entry_point") or tags.get("mlflow.project.entryPoint") or "",
            status=info.status,
            started=info.start_time / 1000,
            seconds=(info.end_time - info.start_time) / 1000 if ended else None,
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
            last_steps=store.last_steps(run),
            tags=tags,
            parent=tags.get("mlflow.parentRunId"),
            children=children,
            page=f"#/experiments/{info.experiment_id}/runs/{info.run_id}",
        )

    def _asking(self, call: Callable[..., Result], *arguments: Any, absent: str | None = None, **named: Any) -> Result:
        from tracking import store

        try:
            return call(*arguments, **named)
        except InputError:
            raise
        except Exception as error:
            if absent and store.is_absent(error):
                raise InputError(absent) from None
            raise InputError(store.trouble(self.uri, error)) from None


def resolved_params(run: RecordedRun, names: Sequence[str] | None = None) -> dict[str, str]:
    """The run's parameters as they were used: `resolved.x`, where there is one, says what `x` was. Only `names`, if
    given.
    """
    plain = {name: value for name, value in run.params.items() if not name.startswith("resolved.")}
    plain |= {n.removeprefix("resolved."): v for n, v in run.params.items() if n.startswith("resolved.")}
    return plain if names is None else {name: plain[name] for name in names if name in plain}
