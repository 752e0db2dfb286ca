"""A gateway that fails now and then before a real MLflow server: all that was recorded arrives, once."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.faults.fuzzing import CASES, run_cases
from tests.tracking.outbox.test_delivery import assert_all_once, deliver, queue_everything
from tests.tracking.servers import NOT_MLFLOW, Fate, Proxy, Server
from tracking.outbox.delivery import Delivery
from tracking.outbox.spool import Spool

FATES: tuple[Fate, ...] = (*[None] * 64, *["lose"] * 4, 429, 500, 500, 502, 503, 504, *NOT_MLFLOW.values())
"""What becomes of requests: most are answered, a fifth are lost on the way back, refused for a while, or answered by
the gateway itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=pytest.mark.slow), pytest.param(max(1, CASES // 20), marks=pytest.mark.fault)]
)
def test_a_gateway_that_fails_now_and_then(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    client = MlflowClient(server.uri)

    def case(chance: random.Random) -> str:
        name = f"net-{n}-{len(list(tmp_path.iterdir()))}"
        proxy = Proxy(server.uri, lambda *_: chance.choice(FATES))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        try:
            run_id = client.create_run(client.create_experiment(name)).info.run_id
            fresh = client.create_run("0").info.run_id
            spool = Spool(tmp_path / name / "runs" / run_id)
            spool.set_facts(run_id=run_id, tracking_uri=proxy.uri, status="RUNNING")
            queue_everything(spool, fresh, model=name)
            failures = 0
            while spool.sent < spool.size:
                try:
                    deliver(Delivery(spool, proxy.uri), spool)
                except Exception:
                    failures += 1
                    assert failures < 300
            assert not (spool.folder / "refused.jsonl").exists()
        finally:
            proxy.stop()
        assert_all_once(client, run_id, fresh, model=name)
        return "all arrived once"

    run_cases(
        "gateways that lose answers, refuse, or ask to sign in",
        case,
        n,
        allowed=("all arrived once",),
        shown="nothing: what failed is sent again",
    )
