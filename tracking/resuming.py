"""Which run a process continues: the one it is asked to resume, or that of its restarted job."""

import os
import re
from pathlib import Path

from common.errors import InputError
from tracking.outbox.spool import is_finished, is_undelivered, read_facts

CHECKPOINT_NAME = "checkpoint.pt"


def run_folder(output_dir: Path, run_id: str) -> Path:
    """The folder of a run in `output_dir`.

    `<output_dir>/<run_id>`, or the one of a run that was started without its server.
    """
    folder = Path(output_dir) / run_id
    if not folder.is_dir():
        for facts_file in Path(output_dir).glob("offline-*/run.json"):
            if read_facts(facts_file.parent).get("run_id") == run_id:
                return facts_file.parent
    return folder


def folder_to_resume(output_dir: Path, resume: str, entry_point: str) -> Path | None:
    """The local folder of the run to resume; None if there is none here (it may still be on the server).

    Where `latest` finds none, a line says so.
    """
    if resume != "latest":
        if not re.fullmatch(r"[A-Za-z0-9_-]+", resume):
            raise InputError(
                f"resume: {resume!r} is not a run id; give an id, such as the name of a folder in "
                f"{output_dir}, or `latest`"
            )
        folder = run_folder(output_dir, resume)
        return folder if (folder / "run.json").is_file() else None
    unfinished = [
        path.parent
        for path in output_dir.glob(f"*/{CHECKPOINT_NAME}*")
        if read_facts(path.parent).get("entry_point") == entry_point and not is_finished(path.parent)
    ]
    if not unfinished:
        where = output_dir.absolute()  # `mlflow run` starts trainers in another folder than its own
        print(f"resume=latest: no unfinished {entry_point} run with a checkpoint in {where}; starting a new one")
        return None
    return max(
        unfinished,
        key=lambda folder: max(path.stat().st_mtime for path in folder.glob(f"{CHECKPOINT_NAME}*")),
    )


def find_resumable(resume: str | None, entry_point: str, output_dir: Path) -> str | None:
    """The id of the run to continue, or None for a new one.

    The run that torchrun's workers of this job began before it restarted them; else the one that `resume` (an
    id or `latest`) names, None where `latest` finds nothing, with a line that says so.
    """
    begun = run_of_this_job(entry_point, output_dir)
    if begun is not None or resume is None:
        return begun
    folder = folder_to_resume(Path(output_dir), resume, entry_point)
    if folder is not None:
        return folder.name
    return None if resume == "latest" else resume


def check_checkpoint_missing(output_dir: Path, run_id: str) -> None:
    """InputError for a finished run without a checkpoint: resuming it would train it a second time from the start."""
    folder = run_folder(output_dir, run_id)
    if read_facts(folder).get("status") == "FINISHED":
        raise InputError(
            f"resume: run {run_id} is finished, and its checkpoint is neither in {folder.absolute()} nor in the store; "
            "start a new run without resume"
        )


def undelivered(output_dir: Path, run_id: str, resume: str | None) -> Path | None:
    """The folder of the run that was found, where all that is left of it to do is to deliver its records.

    None where `resume` names the run: it is to be trained on then.
    """
    folder = run_folder(output_dir, run_id)
    return folder if resume != run_id and is_undelivered(folder) else None


_job_served = False
"""Whether this process has started its run: a restarted process continues one run, not several."""


def note_job_served() -> None:
    """Remember that this process has started its run."""
    global _job_served
    _job_served = True


def this_job() -> str | None:
    """The name of the torchrun job that this process works for (`--rdzv-id`; made up by `--standalone`).

    Raises InputError where torchrun restarted the workers of a nameless job, whose run can't be distinguished
    from others.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job != "none":  # what torchrun says without --rdzv-id
        return job
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        raise InputError(
            "torchrun restarted the workers, but the job has no name to find its run by: give torchrun --rdzv-id=NAME"
        )
    return None


def run_of_this_job(entry_point: str, output_dir: Path) -> str | None:
    """The unfinished run that earlier workers of this torchrun job began in `output_dir`; None if there is none."""
    job = this_job()
    if job is None or _job_served:
        return None
    begun = [
        path.parent
        for path in Path(output_dir).glob("*/run.json")
        if (facts := read_facts(path.parent)).get("job") == job
        and facts.get("entry_point") == entry_point
        and not is_finished(path.parent)
    ]
    if not begun and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        print(
            f"torchrun restarted job {job}, and no run of it is in {Path(output_dir).absolute()}: starting a new "
            "one (with several machines, output_dir must be a folder that they share)"
        )
    return max(begun, key=lambda folder: folder.stat().st_mtime).name if begun else None
