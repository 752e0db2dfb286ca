"""What people type: parameters, search spaces, addresses of models."""

import contextlib
import importlib
import random
import re
from pathlib import Path

import pytest

from common.errors import InputError
from tests.conftest import ROOT
from tests.faults.fuzzing import amounts, odd_text, run_cases
from tests.running import client, config_class_of
from tracking import store
from tracking.registry.models import load_weights, pinned, run_of
from trainers.tune.space import parse_space, split_settings, values_within
from training.config import as_params, parse_config

TRAINERS = sorted(path.parent.name for path in (ROOT / "trainers").glob("*/config.py"))


@amounts
def test_odd_parameters(n: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A config, or a refusal that names what is wrong."""
    modules = {name: importlib.import_module(f"trainers.{name}.config") for name in TRAINERS}

    def case(chance: random.Random) -> str:
        name = chance.choice(TRAINERS)
        config_class, presets = config_class_of(modules[name]), getattr(modules[name], "PRESETS", {})
        fields = list(config_class.__pydantic_fields__)
        argv = []
        for _ in range(chance.randrange(1, 5)):
            field = chance.choice([*fields, odd_text(chance)])
            form = chance.choice(("--{} {}", "--{}={}", "{}={}", "-{} {}", "--{}"))
            argv += form.format(field, odd_text(chance)).split(" ", 1)
        with contextlib.suppress(SystemExit):  # --help, or --dry_run
            assert as_params(parse_config(config_class, presets, argv, name))
        return "read"

    run_cases(
        "odd parameters",
        case,
        n,
        allowed=("read", "refused"),
        shown="one line with the parameter, its value, and what is allowed; exit status 2",
    )
    capsys.readouterr()


@amounts
def test_odd_search_spaces(n: int) -> None:
    def case(chance: random.Random) -> str:
        parts = []
        for _ in range(chance.randrange(1, 4)):
            name = chance.choice(("gp_scale", "n_dis", odd_text(chance)))
            text = chance.choice(
                ("log:0.1..100", "1|2|3", "1..4", odd_text(chance), f"{odd_text(chance)}..{odd_text(chance)}")
            )
            parts.append(f"{name}={text}" if chance.random() < 0.9 else text)
        space = parse_space(split_settings(", ".join(parts), "space"))
        values_within(space, dict.fromkeys(space, odd_text(chance)))
        return "read"

    run_cases(
        "odd search spaces",
        case,
        n,
        allowed=("read", "refused"),
        shown="`space: NAME=TEXT is not a range; write low..high`",
    )


@amounts
def test_odd_addresses_of_models(n: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no model at any of them: each is refused, and no file is made or removed."""
    import mlflow

    inside = folder / "two" / "deep"  # so that `..` is no folder of another test, which may hold a model
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)  # and is again afterwards
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client(folder).create_registered_model("wgan-generator")
    store.connect(f"sqlite:///{folder}/mlflow.db")  # leaves its lock beside the database
    before = sorted(folder.rglob("*"))

    def case(chance: random.Random) -> str:
        forms = ("models:/{}", "models:/{}/{}", "models:/wgan-generator@{}", "models:/wgan-generator/{}", "runs:/{}/{}")
        form = chance.choice(
            (*forms, "{}", "file://{}", "models:{}", "models://{}", "http://{}", "/nowhere/{}.safetensors")
        )
        uri = form.format(odd_text(chance)[:300], odd_text(chance)[:300])
        for reader in (
            (pinned, run_of) if re.match(r"(models|runs):/", uri) and chance.random() < 0.2 else (load_weights,)
        ):
            try:
                reader(uri)
            except InputError:
                continue
            assert reader is pinned, uri
        raise InputError("every reader of an address refused it, or left it as it is")

    run_cases(
        "odd addresses of models",
        case,
        n,
        allowed=("refused",),
        shown="`model URI: no such file or folder; give one, or models:/name/version, ...`",
    )
    assert sorted(folder.rglob("*")) == before
