"""Damaged checkpoints, weights, features, spools, and files of facts."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from common.tensors import load_tensors, save_tensors
from evaluation.features import Features, load_features, save_features
from models.gan.networks import Generator
from tests.faults.fuzzing import amounts, changed_json, damaged, run_cases
from tracking.checkpoint import load_checkpoint, save_checkpoint
from tracking.outbox.spool import Spool, read_facts
from training.generators.stored import load_generator

CPU = torch.device("cpu")


def state(step: int) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(step)
    network = {"weight": torch.randn(20, 8, generator=draws), "bias": torch.randn(20, generator=draws)}
    return {"step": step, "network": network, "config": {"gp_scale": 10.0, "names": ["a", "b"]}, "backlog": "é\n"}


@amounts
def test_damaged_checkpoints(n: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Any change is noticed, and the one before is taken."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    whole = path.read_bytes()

    def case(chance: random.Random) -> str:
        data = damaged(whole, chance)
        path.write_bytes(data)
        loaded = load_checkpoint(path)
        assert str(loaded) == str(state(2 if data == whole else 1))
        assert ("is damaged" in capfd.readouterr().err) == (data != whole)
        return "the same" if data == whole else "the one before"

    run_cases(
        "damaged checkpoints",
        case,
        n,
        allowed=("the same", "the one before"),
        shown="`checkpoint: FILE is damaged (its checksum is not right); using the previous one`",
    )


@amounts
def test_damaged_weights(n: int, tmp_path: Path) -> None:
    """The tensors as they were, or a refusal."""
    path = tmp_path / "model.safetensors"
    tensors = state(1)["network"]
    save_tensors(path, tensors)
    whole = path.read_bytes()

    def case(chance: random.Random) -> str:
        data = damaged(whole, chance)
        path.write_bytes(data)
        try:
            loaded = load_tensors(path)
        except ValueError as error:
            raise InputError(f"model x: {error}") from None  # as the registry says it
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
        return "the same"

    run_cases(
        "damaged weights",
        case,
        n,
        allowed=("the same", "refused"),
        shown="`model URI: model.safetensors: its checksum ...`",
    )


@amounts
def test_damaged_features(n: int, tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    features = Features(torch.randn(12, 3), torch.randn(12, 2))
    save_features(path, features)
    whole = path.read_bytes()

    def case(chance: random.Random) -> str:
        path.write_bytes(damaged(whole, chance))
        found = load_features(path)
        assert found is None or torch.equal(found.x, features.x)
        return "computed again" if found is None else "the same"

    run_cases(
        "damaged caches of features",
        case,
        n,
        allowed=("the same", "computed again"),
        shown="`FILE is damaged; computing the reference features again`",
    )


@amounts
def test_changed_configs_of_models(n: int, tmp_path: Path) -> None:
    """A generator's config.json with other values in it: the generator, or a refusal."""
    network = Generator(32, 4, 16)
    config = {
        "class": "generator",
        "image_size": 32,
        "nz": 4,
        "ngf": 16,
        "nets": "own",
        "trained_on": {"split": "train"},
    }
    (tmp_path / "weights").mkdir()
    save_tensors(tmp_path / "weights" / "model.safetensors", network.state_dict())

    def case(chance: random.Random) -> str:
        changed = changed_json(config, chance)
        text = json.dumps(changed) if chance.random() < 0.8 else damaged(json.dumps(config).encode(), chance)
        (tmp_path / "weights" / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
        loaded = load_generator(str(tmp_path), CPU)
        assert torch.equal(loaded.network.state_dict()["l1.weight"], network.state_dict()["l1.weight"])
        return "read"

    run_cases(
        "changed configs of models",
        case,
        n,
        allowed=("read", "refused"),
        shown="`model URI: config.json is not JSON`, or what in it is wrong",
    )


@amounts
def test_damaged_spools(n: int, tmp_path: Path) -> None:
    """Every line that is whole is read as it was written, one that is not is set aside; nothing stops the others."""
    spool = Spool(tmp_path / "whole")
    written = []
    for step in range(6):
        spool.add("metrics", values={"loss": 1.5 + step}, step=step)
    spool.add("tags", tags={"a": "é"})
    written = [operation for operation, _ in spool.read(0)]
    spool.set_facts(run_id="abc", entry_point="wgan", status="RUNNING")
    spool.close()

    def case(chance: random.Random) -> str:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        name = chance.choice(("spool.jsonl", "spool.jsonl", "sent", "run.json"))
        if not (folder / name).exists():
            (folder / name).write_text("0")
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(data, chance))
        opened = Spool(folder)
        try:
            read = [operation for operation, _ in opened.read(0)]
            opened.last_steps(), opened.backlog(), opened.pending(), opened.facts()
            opened.add("metrics", values={"loss": 9.0}, step=9)
            assert opened.read(0)[-1][0]["step"] == 9
        finally:
            opened.close()
        assert isinstance(read_facts(folder), dict)
        return "the same" if read == written else "set aside"

    run_cases(
        "damaged spools",
        case,
        n,
        allowed=("the same", "set aside"),
        shown="the other records arrive; `python -m tracking sync` counts what was refused, `refused.jsonl` keeps it",
    )
