"""Delivery of what a process that has ended left in a run's folder."""

from pathlib import Path

from common.errors import InputError
from tracking.outbox.spool import Spool, is_undelivered


def sync_run(folder: Path, fresh_run_id: str | None = None) -> int:
    """Deliver the backlog of the run in `folder` and print one line; 1 if something still waits or was refused, else 0.

    fresh_run_id: the run that `mlflow run` made for this command, which is ended as one that continued this one.
    """
    from tracking import store
    from tracking.outbox.delivery import Delivery

    try:
        spool = Spool(folder, patience=0.5)
    except InputError:
        print(f"{folder}: a training process is writing to it and delivers by itself")
        return 0
    except OSError as error:
        print(f"{folder}: cannot be read ({error.strerror or error})")
        return 1
    try:
        facts = spool.facts()
        if not isinstance(facts.get("tracking_uri"), str) or "run_id" not in facts:
            print(
                f"{folder}: run.json is damaged (no tracking_uri or run_id in it): {spool.pending()} records still wait"
            )
            return 1
        if is_undelivered(folder):
            spool.set_facts(status="FINISHED")
        if fresh_run_id is not None:
            spool.add("handover", run_id=fresh_run_id)
        uri = store.with_secrets(store.without_secrets(facts["tracking_uri"]))
        if store.without_secrets(facts["tracking_uri"]) != facts["tracking_uri"]:  # kept by an older version
            uri = facts["tracking_uri"]
            spool.set_facts(tracking_uri=store.without_secrets(uri))
        store.use(uri)
        spool.take_back()
        delivery = Delivery(spool, uri)
        waiting = spool.pending()
        try:
            while operations := spool.read(spool.sent):
                delivery.send(operations)
        except Exception as error:
            # No server knows the run yet, so that it may go to another.
            hint = f"; where that address is wrong, correct tracking_uri in {folder}/run.json"
            print(
                f"{folder}: {spool.pending()} of {waiting} records still wait: {store.without_secrets(uri)}: "
                f"{store.reason(error)}{'' if facts['run_id'] else hint}"
            )
            return 1
        refused = f", {delivery.refused} refused (see refused.jsonl there)" if delivery.refused else ""
        print(f"{folder}: {f'{waiting} records delivered' if waiting else 'nothing waits'}{refused}")
        if spool.facts().get("status") == "FINISHED" and spool.sent == spool.size:
            spool.clear()
        return 1 if delivery.refused else 0
    finally:
        spool.close()
