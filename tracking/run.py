"""The run that a trainer records into. Only its start and its end wait for the server.

What it records goes to the spool of tracking/outbox, which delivers it to MLflow.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from PIL import Image

from common.errors import InputError, disk_is_full, stop_signals
from common.figures import show_as_written
from tracking.environment import environment, run_tags, usual_experiment
from tracking.outbox.spool import Spool, Writer, raise_marks
from tracking.registry.evaluations import Evaluation, evaluation_tags
from tracking.resuming import CHECKPOINT_NAME, note_job_served, run_of_this_job, this_job
from tracking.silent_run import SilentRun
from tracking.starting import Opening, as_text, open_run

if TYPE_CHECKING:
    from tracking.outbox.delivery import Delivery

Status = Literal["FINISHED", "FAILED", "KILLED"]

FINISH_PATIENCE = 20.0
"""Seconds that `finish` waits for a server that does not answer; one that answers may take its time."""

FREE_AT_LEAST = 64 << 20
"""Bytes that a run on a full disk asks for at least."""

STOP_LIMIT = 10.0
"""Seconds that `finish` takes at most in a run that is being stopped: schedulers kill half a minute after SIGTERM."""


class Run:
    """One MLflow run. Use it as a context manager.

    An exception ends it FAILED, Ctrl-C or the exit of SIGTERM or SIGHUP KILLED. Where the disk is full, it is ended
    FAILED through the store alone, and InputError says how much space is needed.

    Attributes:
        folder: `<output_dir>/<run_id>`: spool and checkpoints.
        resumed: whether the run held something before this process (then look for a checkpoint).
    """

    def __init__(
        self,
        spool: Spool,
        delivery: "Delivery",
        resumed: bool,
        stored_steps: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
    ) -> None:
        """`stored_steps`: the last step of each metric and of each image that the store has."""
        self.folder, self.resumed = spool.folder, resumed
        self._spool, self._delivery = spool, delivery
        self._metric_marks, self._image_marks = spool.last_steps() if resumed else ({}, {})
        self._skip_recorded(*stored_steps)
        self._known_names: set[str] = set()
        self._finished = False
        self._writer = Writer(spool, delivery.send, delivery.beat)

    @property
    def run_id(self) -> str:
        """The MLflow run's id.

        A local one (`offline-...`) while a run that started without its server waits to be created.
        """
        facts = self._spool.facts()
        return str(facts["run_id"] or facts["local_id"])

    @property
    def checkpoint_path(self) -> Path:
        """Where this run keeps its checkpoint."""
        return self.folder / CHECKPOINT_NAME

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a step. Costs microseconds and never waits; NaN and inf are recorded as such.

        A resumed run skips a (name, step) that was recorded before, so a step computed again is not logged twice.
        """
        if not self._known_names.issuperset(values):
            for name in values:
                _check_name(name)
            self._known_names.update(values)
        numbers = {name: float(value) for name, value in values.items()}
        if self._metric_marks:
            numbers = {name: value for name, value in numbers.items() if step > self._metric_marks.get(name, -math.inf)}
            if not numbers:
                return
        self._spool.append(
            json.dumps({"op": "metrics", "time": time.time_ns() // 1_000_000, "step": int(step), "values": numbers})
        )

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Record an image (H x W x 3 or H x W, uint8) at a step.

        The UI shows one key's images under a step slider.
        """
        _check_name(key)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(
                f"log_image {key}: got {image.dtype} of shape {image.shape}, need uint8 of shape (H, W, 3) or (H, W)"
            )
        if step <= self._image_marks.get(key, -math.inf):
            return
        path, relative = self._spool.new_file("image.png")
        Image.fromarray(image).save(path, compress_level=1)  # 5x faster than the default level, 10 % larger
        self._spool.add("image", key=key, step=int(step), file=relative)

    def log_figure(self, figure: Any, path: str) -> None:
        """Record a matplotlib figure as the artifact `path` (`figures/loss.png`; the suffix sets the format)."""
        folder, name = _split(path)
        file, relative = self._spool.new_file(name)
        show_as_written(figure)
        figure.savefig(file, dpi=120, bbox_inches="tight")
        self._spool.add("file", file=relative, name=name, folder=folder)

    def log_text(self, text: str, path: str) -> None:
        """Record a text as the artifact `path`."""
        folder, name = _split(path)
        file, relative = self._spool.new_file(name)
        file.write_text(text)
        self._spool.add("file", file=relative, name=name, folder=folder)

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Record a dict as the JSON artifact `path`."""
        self.log_text(json.dumps(values, indent=1, default=str) + "\n", path)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Record a file or a folder as it is now (it is copied) under the artifact folder `folder`."""
        path = Path(path)
        file, relative = self._spool.new_file(path.name)
        if path.is_dir():
            shutil.copytree(path, file)
        else:
            shutil.copy2(path, file)
        self._spool.add("file", file=relative, name=path.name, folder=folder or "")

    def log_checkpoint(self) -> None:
        """Upload the run's checkpoint file, to resume on another machine.

        If several wait for the server, only the newest is kept. The spool gets a hard link, not a copy:
        `save_checkpoint` replaces the file and never writes into it.
        """
        relative = f"files/checkpoint/{CHECKPOINT_NAME}"
        file, temporary = self.folder / relative, self.folder / f"{CHECKPOINT_NAME}.link"
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.checkpoint_path, temporary)
        except OSError:  # a file system without hard links
            shutil.copy2(self.checkpoint_path, temporary)
        os.replace(temporary, file)
        self._spool.add("file", file=relative, name=CHECKPOINT_NAME, folder="checkpoints", newest=True)

    def log_data(self, name: str, fingerprint: str, details: Mapping[str, Any], context: str = "training") -> None:
        """Record what the run read.

        An MLflow dataset input with `details` as its profile, and the tag `data.<name>`.
        """
        self._spool.add(
            "dataset",
            name=name,
            fingerprint=fingerprint,
            details=json.loads(json.dumps(details, default=str)),
            context=context,
        )
        self.set_tags({f"data.{name}": fingerprint})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set or change tags."""
        self._spool.add("tags", values=as_text(tags))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters.

        MLflow's parameters can't be changed: for one that has another value already, the new one is `resolved.<name>`.
        """
        self._spool.add("params", values=as_text(params))

    def backlog(self) -> str:
        """The records that the server does not have yet, as text for a checkpoint; see `restore`."""
        return self._spool.backlog()

    def restore(self, backlog: str) -> None:
        """Add a checkpoint's backlog to the spool. Call it before the first `log_metrics`.

        Records that the spool has already are not added again.
        """
        self._skip_recorded(*self._spool.restore(backlog))

    def deliver(self, patience: float = FINISH_PATIENCE, limit: float = math.inf) -> bool:
        """Wait until all that was recorded so far is delivered.

        False if the server did not answer for `patience` seconds.
        """
        return self._writer.wait_for(self._spool.size, patience, limit)

    def finish(self, status: Status = "FINISHED") -> bool:
        """End the run and deliver what is left; True if the server has it all.

        Otherwise one line says how to deliver it later.
        """
        if self._finished:
            return True
        self._spool.add("finish", status=status)
        self._finished = True
        self._note_status(status)
        delivered = self.deliver(limit=math.inf if status == "FINISHED" else STOP_LIMIT)
        error = self._writer.error
        self._writer.stop()
        if delivered and status == "FINISHED":
            self._spool.clear()
            self._note_status(status)
        elif not delivered:
            print(
                f"tracking: {self._spool.pending()} records are not delivered ({_reason(error)}); they are safe in "
                f"{self.folder.absolute()}. Deliver them with: python -m tracking sync {self.folder.parent.absolute()}"
            )
        if not self._writer.is_alive():
            self._spool.close()
        return delivered

    def _note_status(self, status: Status) -> None:
        """In run.json. On a full disk the spool's last line has to do until it is cleared, which makes room."""
        with contextlib.suppress(OSError):
            if self._spool.facts().get("status") != status:
                self._spool.set_facts(status=status)

    def store(self) -> str:
        """The address of the tracking store, without its password."""
        return str(self._spool.facts()["tracking_uri"])

    def url(self) -> str:
        """The address of the run's page, or how to open it from a local store."""
        facts = self._spool.facts()
        page = f"#/experiments/{facts.get('experiment_id')}/runs/{facts['run_id']}"
        if facts["run_id"] is None:
            return f"not on {facts['tracking_uri']} yet: python -m tracking sync {self.folder.parent.absolute()}"
        if facts["tracking_uri"].startswith("http"):
            return f"{facts['tracking_uri'].rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {facts['tracking_uri']}, then http://127.0.0.1:5000/{page}"

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the run as the error, or its absence, says: FINISHED, KILLED or FAILED; InputError on a full disk."""
        if self._finished:
            return
        with _sigterm_ignored():
            try:
                if disk_is_full(error):
                    self._end_on_full_disk()
                self._end(error)
            except OSError as fault:
                if not disk_is_full(fault):
                    raise
                self._end_on_full_disk()

    def _end(self, error: BaseException | None) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.finish("FINISHED")
        elif isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in (129, 130, 143)):
            self.finish("KILLED")
        else:
            self.set_tags({"error": f"{type(error).__name__}: {error}"})
            self.finish("FAILED")

    def _end_on_full_disk(self) -> NoReturn:
        """End the run FAILED through the store alone: its spool cannot be written. Raises InputError with the space
        that is needed.
        """
        self._finished = True
        checkpoint = self.checkpoint_path
        size = checkpoint.stat().st_size if checkpoint.exists() else 0
        needed = max(FREE_AT_LEAST, 3 * size)  # the new one, the previous one, the one to upload
        resume = f", and go on with resume={self.run_id}" if size else ""
        free = shutil.disk_usage(self.folder).free
        reason = (
            f"output_dir: no space is left for {self.folder.absolute()} ({_megabytes(free)} free); make room for at "
            f"least {_megabytes(needed)}{resume}"
        )
        self._writer.wait_for(self._spool.size, STOP_LIMIT / 2, STOP_LIMIT)
        self._writer.stop()
        try:
            self._delivery.end("FAILED", reason)
            ended = "the run is ended as FAILED"
        except Exception as fault:
            ended = f"the run could not be ended ({_reason(fault)}): python -m tracking reap does that later"
        with contextlib.suppress(OSError):
            self._spool.set_facts(status="FAILED")
        if not self._writer.is_alive():
            self._spool.close()
        raise InputError(f"{reason}; {ended}") from None

    def _skip_recorded(self, metric_steps: Mapping[str, int], image_steps: Mapping[str, int]) -> None:
        """Skip, from now on, what is logged up to these steps: it is recorded already."""
        raise_marks(self._metric_marks, metric_steps)
        raise_marks(self._image_marks, image_steps)

    def register(self, **operation: Any) -> int:
        """Queue a saved model for the registry (see `tracking.registry.models.log_model`).

        Returns the spool's size after it.
        """
        return self._spool.add("register", **operation)

    def log_evaluations(self, uri: str, evaluations: Sequence[Evaluation], step: int = 0) -> None:
        """Record figures of the registered version `uri` (models:/name/version) with that version, for `promote`.

        A model of another address (a file) has no version, and nothing is recorded with it.
        """
        match = re.fullmatch(r"models:/([^/@]+)/(\d+)", uri)
        if match:
            self._spool.add(
                "evaluations",
                name=match[1],
                version=match[2],
                step=int(step),
                tags=evaluation_tags(evaluations, self.run_id),
                metrics={found.metric: float(found.value) for found in evaluations},
            )

    def start_writer(self) -> None:
        """Begin to deliver."""
        self._writer.start()


AnyRun = Run | SilentRun


def start_run(
    entry_point: str,
    params: Mapping[str, Any],
    *,
    tags: Mapping[str, Any] | None = None,
    output_dir: Path = Path("runs"),
    experiment: str | None = None,
    run_name: str | None = None,
    resume: str | None = None,
) -> Run | SilentRun:
    """Start or continue the run of this command; ranks other than 0 (`RANK`) get a SilentRun.

    Under `mlflow run` (MLFLOW_RUN_ID) its run is continued; the variable is taken out of the environment, so
    that a second run of this process, or a child process, makes its own. `experiment`: MLFLOW_EXPERIMENT_NAME, else
    wgan-eeg, where none is given. `resume` is a run id or `latest`,
    the newest unfinished run of this entry point that has a checkpoint in `output_dir`. If there is none,
    `latest` starts a new run and says so. Workers that torchrun restarted continue the run of their job (see
    `find_resumable`). A resumed run keeps its id; the run that `mlflow run` made for this command is ended with
    the tag `resumes`.

    Raises InputError for an unknown run id, a run of another entry point, a run in use, an `output_dir` that
    can't be written, or a store that refuses.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return SilentRun(output_dir)
    # Imported here: two seconds that `--help`, a bad parameter and the other ranks need not wait for.
    from tracking.outbox.delivery import Delivery

    output_dir = Path(output_dir)
    where_it_runs = environment()
    every_tag = {"entry_point": entry_point, **run_tags(where_it_runs), **(tags or {})}
    if run_name:  # `mlflow run` has made its run under a name of its own
        every_tag["mlflow.runName"] = run_name
    resume = resume or run_of_this_job(entry_point, output_dir)
    inherited = os.environ.pop("MLFLOW_RUN_ID", None)
    opening = open_run(
        entry_point,
        output_dir,
        every_tag,
        experiment=experiment or usual_experiment(),
        run_name=run_name,
        resume=resume,
        inherited=inherited,
    )
    spool = _open_spool(opening)
    delivery = Delivery(spool, opening.uri)
    run = Run(spool, delivery, opening.resumed, stored_steps=(opening.metric_steps, opening.image_steps))
    if inherited and inherited != opening.facts["run_id"]:
        spool.add("handover", run_id=inherited)
    spool.add("status", status="RUNNING")
    # The error that ended an earlier attempt is no error of this one.
    again = {"resumed": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "error": ""} if opening.resumed else {}
    run.set_tags({**every_tag, **again})
    _log_config(run, params)
    run.log_dict(where_it_runs, "environment.json")
    run.start_writer()
    return run


def _open_spool(opening: Opening) -> Spool:
    """The spool of the run that begins, without what a killed process left half made in its folder and artifacts."""
    from tracking.store import sweep_uploads

    spool = Spool(opening.folder)
    spool.sweep()
    sweep_uploads(opening.artifacts)
    spool.set_facts(**{**opening.facts, "status": "RUNNING", "job": this_job()})
    note_job_served()
    return spool


def _log_config(run: Run, params: Mapping[str, Any]) -> None:
    # `resume` says how this process began, not what the run is; the tag `resumed` tells that.
    config = {name: value for name, value in params.items() if name != "resume"}
    run.log_params(config)
    run.log_dict(config, "config.json")


@contextlib.contextmanager
def _sigterm_ignored() -> Iterator[None]:
    """Ignore SIGTERM and SIGHUP while a run is being ended: torchrun, for one, sends it to a process that fails.

    Only the main thread can ignore signals; in another nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _check_name(name: str) -> None:
    if (
        not re.fullmatch(r"[\w\-. :/]{1,250}", name, re.ASCII)
        or name.startswith(("/", "."))
        or "//" in name
        or "/." in name
    ):
        raise ValueError(
            f"name {name!r}: letters, digits, `_ - . : /` and spaces only, at most 250, no empty part between slashes"
        )


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def _reason(error: Exception | None) -> str:
    if error is None:
        return "the store is slow"
    from tracking import store

    return store.reason(error)
