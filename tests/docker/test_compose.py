"""compose.yaml and its variants, read by podman-compose's own parser: merging, interpolation, required variables."""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import podman_compose
import pytest
import yaml

from tests.conftest import ROOT

SECRETS = {"POSTGRES_PASSWORD": "pg1", "S3_ACCESS_KEY": "key1", "S3_SECRET_KEY": "secret1"}
AUTH_SECRETS = {"MLFLOW_ADMIN_PASSWORD": "admin1", "MLFLOW_SECRET_KEY": "cookie1"}


def read(environment: Mapping[str, str], *files: str) -> dict[str, Any]:
    """The stack of compose.yaml overlaid by `files`, with the variables of `environment` filled in."""
    stack: dict[str, Any] = {}
    for name in ("compose.yaml", *files):
        content = yaml.safe_load((ROOT / name).read_text())
        podman_compose.rec_merge(stack, podman_compose.normalize(podman_compose.rec_subs(content, dict(environment))))
    return stack


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_starts_without_a_secret(name: str) -> None:
    for environment in ({k: v for k, v in SECRETS.items() if k != name}, {**SECRETS, name: ""}):
        with pytest.raises(ValueError, match=f"{name}.*see .env.example"):
            read(environment)


@pytest.mark.parametrize("name", AUTH_SECRETS)
def test_accounts_need_their_secrets(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*see .env.example"):
        read({**SECRETS, **AUTH_SECRETS, name: ""}, "compose.auth.yaml")


def test_the_example_names_every_variable_and_holds_no_secret() -> None:
    example = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", example, re.MULTILINE))
    text = "".join((ROOT / name).read_text() for name in ("compose.yaml", "compose.auth.yaml", "compose.gpu.yaml"))
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    # left out on purpose: the images, the administrator's name and the commit have defaults that few change
    assert used - set(named) == {"POSTGRES_IMAGE", "STORE_IMAGE", "MLFLOW_ADMIN", "GIT_COMMIT"}
    assert set(named) <= used
    assert all(named[name] == "" for name in (*SECRETS, *AUTH_SECRETS))
    ignored = (ROOT / ".gitignore").read_text().split(), (ROOT / ".dockerignore").read_text().split()
    assert all(".env" in lines for lines in ignored)


def test_only_loopback_is_published() -> None:
    stack = read(SECRETS)
    published = {name: service["ports"] for name, service in stack["services"].items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert read({**SECRETS, "MLFLOW_BIND": "0.0.0.0"})["services"]["mlflow"]["ports"] == ["0.0.0.0:5000:5000"]


def test_secrets_are_on_no_command_line() -> None:
    stack = read({**SECRETS, **AUTH_SECRETS}, "compose.auth.yaml")
    for service in stack["services"].values():
        for secret in (*SECRETS.values(), *AUTH_SECRETS.values()):
            assert secret not in str(service.get("command")) + str(service.get("healthcheck"))


def test_the_server_answers_to_the_names_it_is_called_by_and_no_other() -> None:
    def allowed(host: str, **more: str) -> bool:
        server = read({**SECRETS, **more})["services"]["mlflow"]
        patterns = server["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
        return any(fnmatch.fnmatch(host, pattern) for pattern in patterns)

    trainer = read(SECRETS)["services"]["trainer"]["environment"]["MLFLOW_TRACKING_URI"]
    assert all(allowed(host) for host in (trainer.removeprefix("http://"), "localhost:5000", "127.0.0.1:5000"))
    assert not allowed("evil.example:5000")
    assert allowed("lab.example:5000", MLFLOW_EXTRA_HOSTS=",lab.example:5000")


def test_volumes_dependencies_and_build_stages_exist() -> None:
    stack = read({**SECRETS, **AUTH_SECRETS}, "compose.auth.yaml", "compose.gpu.yaml")
    services = stack["services"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert "build" not in service or service["build"]["target"] in stages
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in stack["volumes"]
    for name in ("database", "store", "mlflow"):
        assert "healthcheck" in services[name]
    assert services["trainer"]["profiles"] == ["train"]
    assert "--app-name" in services["mlflow"]["command"]
    assert services["trainer"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_the_trainer_reaches_a_study_database_that_is_made() -> None:
    assert "CREATE DATABASE studies;" in (ROOT / "docker" / "studies.sql").read_text()
    services = read(SECRETS)["services"]
    assert services["trainer"]["environment"]["PGPASSWORD"] == services["database"]["environment"]["POSTGRES_PASSWORD"]


def test_the_server_has_the_trainers_mlflow() -> None:
    """Client and server of one version, and one driver for PostgreSQL."""
    pins = [
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-server.txt")
    ]
    assert {name: pins[0].get(name) for name in ("mlflow", "psycopg2-binary")} == {
        name: pins[1][name] for name in ("mlflow", "psycopg2-binary")
    }
