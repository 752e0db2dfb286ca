"""torchrun, but bad input is not tried again: `python -m training.torchrun`, with torchrun's options.

A process that ended with an InputError (status 2) would end so each time. It has said what is wrong in one line;
torchrun would add its own traceback, status 1, and as many attempts as `--max-restarts` allows.
"""

import os
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api

from common.parent import TORCHRUN_ID, stop_without_parent, works_for_another

BAD_INPUT = 2


class Agent(LocalElasticAgent):
    """torchrun's agent, which gives up at the first process that ended with status 2."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if any(failure.exitcode == BAD_INPUT for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


def main() -> None:
    api.LocalElasticAgent = Agent  # type: ignore[misc]
    os.environ[TORCHRUN_ID] = str(os.getpid())
    if works_for_another():
        stop_without_parent(repeat=False)  # a second signal would interrupt the wait for the workers
    try:
        torchrun.main()
    except SignalException as stopped:  # its workers have ended their run; torchrun would print a traceback
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as error:
        if any(failure.exitcode == BAD_INPUT for failure in error.failures.values()):
            sys.exit(BAD_INPUT)
        raise


if __name__ == "__main__":
    main()
