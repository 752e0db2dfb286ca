"""The services of compose.yaml as plain processes on loopback: PostgreSQL, an S3 server (moto's), MLflow over both."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
from botocore.exceptions import BotoCoreError

from tests.conftest import PATIENCE
from tests.tracking.servers import Server, free_port

PASSWORD = "secret1"
BUCKET = "mlflow"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs are (Debian keeps them off the path), or None."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda p: int(p.parent.name),
        default=None,
    )


class Postgres:
    """A private cluster. PostgreSQL refuses to run as root: root's one runs as Debian's user `postgres`.

    It has a folder of its own right below /tmp: pytest takes those of all its runs away from other users whenever one
    starts.
    """

    def __init__(self, programs: Path) -> None:
        self.folder, self.programs, self.port = Path(tempfile.mkdtemp(prefix="postgres-")), programs, free_port()
        self.data, self.log = self.folder / "data", self.folder / "log"
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)

    def uri(self, database: str) -> str:
        """The address of a database, as SQLAlchemy wants it. `postgresql://` alone would mean another driver."""
        return f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> Any:
        return psycopg2.connect(host="127.0.0.1", port=self.port, user="mlflow", password=PASSWORD, dbname=database)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.data), *arguments]
        # To a file: pg_ctl's server would keep a pipe open, and reading it would wait for ever.
        with open(self.log, "ab") as log:
            done = subprocess.run(command, user=self.user, stdout=log, stderr=log, cwd=self.folder, timeout=PATIENCE)
        assert done.returncode == 0, self.log.read_text()[-3000:]

    def start(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self.user:
            shutil.chown(password, self.user)
        self._run("initdb", "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-sync")
        self._run("pg_ctl", "-o", f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}", "-w", "start")
        connection = self.connect("postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in ("mlflow", "studies"):
                cursor.execute(f"CREATE DATABASE {name}")
        connection.close()

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)


class Store:
    """moto's S3 server: the protocol of S3, everything in memory."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        log = open(folder / "store.log", "ab")  # noqa: SIM115 (the process keeps it)
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.client.create_bucket(Bucket=BUCKET)
                break
            except BotoCoreError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((folder / "store.log").read_text()) from None
                time.sleep(0.2)

    def keys(self) -> list[str]:
        """The names of all objects in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class Stack:
    """PostgreSQL, the store, and a running MLflow server over both."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(programs)
        self.postgres.start()
        self.store = Store(folder)
        self.server = Server(
            folder,
            self.postgres.uri("mlflow"),
            f"s3://{BUCKET}/",
            {**KEYS, "MLFLOW_S3_ENDPOINT_URL": self.store.endpoint},
        )
        self.server.start()

    def stop(self) -> None:
        self.server.kill()
        self.store.stop()
        self.postgres.stop()


def running_stack(folder: Path) -> Iterator[Stack]:
    """The stack, stopped afterwards; skips the test where PostgreSQL is not installed."""
    programs = postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: make services, or apt-get install postgresql)")
    stack = Stack(folder, programs)
    try:
        yield stack
    finally:
        stack.stop()
