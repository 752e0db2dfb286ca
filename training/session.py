"""What every resumable trainer does around its training: processes, resume, signals, checkpoints, and how a run ends.

A trainer reads:

    session = Session("wgan", config, trial, advice="...")      # processes, and the checkpoint to go on from
    ...                                                         # data, networks
    session.check_unchanged(fingerprint, "...", ...)            # before the run begins
    with session.restoring():                                   # this, too: what does not fit is refused
        ...                                                     # networks, optimisers, position from session.checkpoint
    with session:                                               # the run begins
        for ... in ...:                                         # the trainer's own loop
            session.save({...})
        session.end_training()
        ...                                                     # evaluation, figures, registry, summary
    return session.status
"""

import contextlib
import os
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

from common.errors import InputError
from tracking.checkpoint import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint
from tracking.outbox.sync import sync_run
from tracking.resuming import check_checkpoint_missing, find_resumable, undelivered
from tracking.run import AnyRun, start_run
from training.config import as_params, check_unchanged
from training.processes import join_processes
from training.trial import Pruned, StudyTrial


class Stopped(Exception):
    """SIGTERM or Ctrl-C came, and everything is in the checkpoint."""


class NotFinite(Exception):
    """A loss became NaN or infinite."""


class Resumable(Protocol):
    """A training that goes on epoch by epoch, and from a state saved between two epochs."""

    epoch: int

    @property
    def finished(self) -> bool: ...

    def run_epoch(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Session:
    """One command's run from its beginning to its end. Use it as a context manager once data and networks are there.

    Inside, these exceptions end the run and go no further; `status` is then the command's exit status:
    Stopped (KILLED, 128 + signal), Pruned by a study (KILLED, 0), NotFinite (FAILED, 1). Any other ends it FAILED.

    Attributes:
        processes, device: where this process computes. checkpoint: what the run goes on from; None for a new one.
        trial: the run's place in a study. run: the MLflow run, inside the `with` block.
        done: {key: result} of the parts that `once` has finished, for trainers that train several networks.
    """

    run: AnyRun

    def __init__(self, entry_point: str, config: Any, trial: StudyTrial | None = None, advice: str = "") -> None:
        """config: with `device`, `output_dir`, `run_name`, `resume` and `allow_changes`. advice: what to do about a
        loss that is not finite, said where it ends the run.

        Raises InputError where `resume` names no run, or its checkpoint cannot be read. Where resume=latest finds a
        run that was trained to its end and only not delivered, it is delivered and SystemExit ends the command.
        """
        self.entry_point, self.config, self.trial, self.advice = entry_point, config, trial or StudyTrial(), advice
        self.processes = join_processes(config.device)
        self.device = self.processes.device
        first = self.processes.is_first
        self._run_id = find_resumable(config.resume, entry_point, config.output_dir) if first else None
        self._deliver_finished()
        path = find_checkpoint(config.output_dir, self._run_id) if self._run_id else None
        if self._run_id and path is None:
            check_checkpoint_missing(config.output_dir, self._run_id)
        self.checkpoint: dict[str, Any] | None = self.processes.share(load_checkpoint(path) if path else None)
        self.done: dict[str, dict[str, Any]] = {}
        self._under_way: dict[str, Any] | None = None
        if self.checkpoint is not None:
            self._take(self.checkpoint)
        self.status = 0
        self._fingerprint = ""
        self._stop: StopRequest | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that records."""
        return self.processes.is_first

    def _deliver_finished(self) -> None:
        """Deliver the run that was found, if nothing else is left to do of it, and exit."""
        folder = undelivered(self.config.output_dir, self._run_id, self.config.resume) if self._run_id else None
        status = None
        if folder is not None:
            print(f"run {self._run_id} is finished, and its last records were not delivered: delivering them")
            status = sync_run(folder, os.environ.pop("MLFLOW_RUN_ID", None))
            print(f"to train it further, give resume={self._run_id}; for a new run, leave resume out")
        status = self.processes.share(status)
        if status is not None:
            sys.exit(status)

    def _take(self, checkpoint: Mapping[str, Any]) -> None:
        """What every checkpoint holds, and the parts that are finished or under way in trainers that have such."""
        with self.restoring():
            kinds = {"config": dict, "data": str, "backlog": str}
            for name, kind in kinds.items():
                if not isinstance(checkpoint[name], kind):
                    raise TypeError(f"{name} is a {type(checkpoint[name]).__name__}, not a {kind.__name__}")
            self.done = {key: dict(result) for key, result in checkpoint.get("done", {}).items()}
            under_way = checkpoint.get("under_way")
            self._under_way = under_way and {"key": under_way["key"], "fit": dict(under_way["fit"])}

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Load from the checkpoint inside this: what it lacks, or what does not fit, is one line (InputError).

        Do it before the run begins, so that a finished run stays as it is.
        """
        try:
            yield
        except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            text = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
            raise InputError(
                f"resume: the checkpoint of run {self._run_id} does not fit ({text}); give the parameters that it was "
                "made with, or start a new run without resume"
            ) from None

    def check_unchanged(
        self, fingerprint: str, other_data: str, *, operational: Container[str], changeable: Container[str]
    ) -> None:
        """Note the data's fingerprint. InputError where a resumed run has other data or other parameters.

        other_data: what to say where the data are others. operational: names of parameters that may differ. changeable:
        of those that may with `allow_changes`; "data" among them is the data.
        """
        self._fingerprint = fingerprint
        if self.checkpoint is not None:
            changed = None if self.checkpoint["data"] == fingerprint else other_data
            check_unchanged(
                self.config,
                self.checkpoint["config"],
                operational=operational,
                changeable=changeable,
                other_data=changed,
                allow_changes=self.config.allow_changes,
            )

    # ------------------------------------------------------------------------------------------ beginning and end

    def __enter__(self) -> "Session":
        config, trial = self.config, self.trial
        self.run = start_run(
            self.entry_point,
            as_params(config),
            tags={"world_size": self.processes.world_size, "device": self.device.type, **trial.tags},
            output_dir=config.output_dir,
            experiment=trial.experiment,
            run_name=config.run_name,
            resume=self._run_id,
        )
        try:
            trial.begin(self.run)
            if self.checkpoint is not None:
                self.run.restore(self.checkpoint["backlog"])
        except BaseException as error:
            self.run.__exit__(type(error), error, error.__traceback__)
            raise
        self._stop = StopRequest()
        self._stop.__enter__()
        return self

    def end_training(self) -> None:
        """All is trained and saved: from here on a signal ends the run at once (KILLED); a resumed run goes on here.

        Raises Stopped where a signal came since the last checkpoint.
        """
        if self.stop_asked():
            raise Stopped
        self._restore_signals()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        signal_status = self._stop.exit_code if self._stop else 0
        self._restore_signals()
        try:
            return self._conclude(kind, error, trace, signal_status)
        except OSError as fault:  # of a full disk, where the run's end cannot be recorded
            self.run.__exit__(type(fault), fault, fault.__traceback__)
            raise

    def _conclude(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        signal_status: int,
    ) -> bool:
        if isinstance(error, Stopped):
            self.status = signal_status or 143
            self.run.log_checkpoint()
            self.run.finish("KILLED")
            print(f"stopped; go on with resume={self.run.run_id}", file=sys.stderr)
            return True
        if isinstance(error, Pruned):
            self.run.set_tags({"pruned": str(error)})
            self.run.finish("KILLED")
            return True
        if isinstance(error, NotFinite):
            self._end_not_finite(error)
            return True
        self.run.__exit__(kind, error, trace)
        return False

    def fail(self, reason: str) -> None:
        """End the run FAILED after all was recorded: its figures are not to be trusted. The exit status is 1."""
        self.status = 1
        self.run.set_tags({"error": reason})
        self.run.finish("FAILED")

    def _end_not_finite(self, reason: NotFinite) -> None:
        self.fail(str(reason))
        path = self.run.checkpoint_path
        kept = path.absolute() if path.exists() else "none was written yet"
        print(
            f"error: {reason}; the run is marked failed; last good checkpoint: {kept}. {self.advice}", file=sys.stderr
        )

    def _restore_signals(self) -> None:
        if self._stop is not None:
            self._stop.__exit__(None, None, None)
            self._stop = None

    # ------------------------------------------------------------------------------------------------ checkpoints

    def stop_asked(self) -> bool:
        """Whether a signal asks any process to stop. A collective call: every process must make it."""
        return self.processes.any(self._stop is not None and self._stop.requested)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint: `state`, beside parameters, data and what the server does not have yet."""
        if self.is_first:
            about = {"config": as_params(self.config), "data": self._fingerprint, "backlog": self.run.backlog()}
            save_checkpoint(self.run.checkpoint_path, {**about, **state})

    # ---------------------------------------------------------------- trainings of several networks, one by one

    def restore(self, key: str, training: Resumable) -> None:
        """Bring the training `key` to where an earlier process stopped in it; nothing where that was in another."""
        if self._under_way is not None and self._under_way["key"] == key:
            with self.restoring():
                training.load_state_dict(self._under_way["fit"])

    def epochs(self, key: str, training: Resumable) -> Iterator[dict[str, float]]:
        """Train epoch by epoch and give each epoch's figures; when the caller's loop comes back for the next, write a
        checkpoint, and raise Stopped if a signal came.
        """
        while not training.finished:
            yield training.run_epoch()
            asked = self.stop_asked()
            self.save({"done": self.done, "under_way": {"key": key, "fit": training.state_dict()}})
            if asked:
                raise Stopped

    def once(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of the part `key`: of an earlier process of this run, from its checkpoint; or made now by
        `make`, and kept in the checkpoint. Raises Stopped if a signal came meanwhile.
        """
        if key not in self.done:
            self.done[key] = make()
            self.save({"done": self.done, "under_way": None})
            if self.stop_asked():
                raise Stopped
        return self.done[key]
