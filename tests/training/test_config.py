"""The command line of every entry point: defaults, presets, refusals, and MLproject's agreement with them."""

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass

from common.errors import InputError
from tests.conftest import ROOT
from tests.running import config_class_of
from trainers.wgan.config import WganConfig
from training.config import (
    CONFIG,
    Floats,
    ImageSize,
    OptionalPath,
    RecordConfig,
    as_params,
    build_config,
    check_unchanged,
    given_value,
    operational_fields,
    option,
    parse_config,
    preset_config,
    with_default,
)


@dataclass(frozen=True, config=CONFIG)
class Toy(RecordConfig):
    """A toy."""

    preset: Literal["small", "big"] = option("big", "which")
    image_size: ImageSize = option(128, "pixels")
    gp_scale: float = option(5.0, "weight", ge=0)
    flip: bool = option(False, "mirror")
    data_dir: OptionalPath = option(None, "where", operational=True)
    shift: float = option(0.0, "any number")
    offsets: Floats = option((), "numbers")
    width: int = option(1, "whole number", ge=1)


PRESETS: dict[str, dict[str, Any]] = {"small": {"image_size": 32, "gp_scale": 10.0}, "big": {}}
SMALL: dict[str, Any] = {"preset": "small", **PRESETS["small"]}


@dataclass(frozen=True, config=CONFIG)
class Faces:
    """Images that are downloaded where no data_dir is given, and only there."""

    dataset: str = option("celeba", "which")
    data_dir: OptionalPath = option(None, "where", operational=True)


@dataclass(frozen=True, config=CONFIG)
class Plain:
    """One parameter."""

    n: int = option(1, "a number")


def parse(*argv: str) -> Toy:
    return parse_config(Toy, PRESETS, argv, "toy")


def test_defaults_then_preset_then_what_was_given() -> None:
    assert parse("--preset", "big") == Toy() == preset_config(Toy, PRESETS, "big")
    assert parse() == Toy(**SMALL) == preset_config(Toy, PRESETS, "small")
    assert parse("--preset", "big", "--gp_scale", "7") == Toy(gp_scale=7.0)
    assert parse("--flip", "true", "--image_size", "64", "--data_dir", "a b") == Toy(
        **SMALL | {"flip": True, "image_size": 64, "data_dir": "a b"}
    )


def test_a_config_without_presets() -> None:
    assert parse_config(Plain, {}, ["--n", "3"], "plain") == Plain(n=3)
    with pytest.raises(InputError, match="plain has no parameter 'preset'"):
        parse_config(Plain, {}, ["--preset", "quick"], "plain")


def test_values_may_begin_with_a_minus_sign() -> None:
    """Also as `mlflow run -P offsets=-1,0,1` passes them: in a word of their own, which argparse takes for an
    option.
    """
    assert parse("--offsets", "-1,0,1", "--shift", "-1e-3") == Toy(**SMALL | {"offsets": (-1, 0, 1), "shift": -0.001})
    assert parse("--offsets=-1,2", "--flip", "true") == Toy(**SMALL | {"offsets": (-1, 2), "flip": True})
    assert parse("--data_dir", "-").data_dir == Path("-")


def test_empty_means_not_given() -> None:
    assert parse("--data_dir", "").data_dir is None
    assert parse("--preset", "big", "--gp_scale", "").gp_scale == 5.0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--gp_scale", "-1"], ["gp_scale", "'-1'", "greater than or equal to 0"]),
        (["--gp_scale", "ten"], ["gp_scale", "'ten'", "valid number"]),
        (["--gp_scale", "nan"], ["gp_scale", "'nan'", "finite"]),
        (["--image_size", "65"], ["image_size", "65", "32, 48, 64 or 128"]),
        (["--image_size", "64.0"], ["image_size", "64.0", "32, 48, 64 or 128"]),
        (["--flip", "maybe"], ["flip", "'maybe'"]),
        (["--preset", "huge"], ["preset", "'huge'", "small, big"]),
        (["--gp_scales", "1"], ["gp_scales", "did you mean gp_scale?"]),
        (["--gp_scale", "-1", "--flip", "x"], ["gp_scale", "flip"]),
        (["--gp_scales", "-1,2"], ["gp_scales", "did you mean gp_scale?"]),
        (["--gp_scale"], ["--gp_scale: expected one argument", "write --name value", "python -m trainers.toy --help"]),
        (["--gp_scale", "--flip", "true"], ["--gp_scale: expected one argument"]),
        (["--dry_run=5"], ["--dry_run", "'5'"]),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(argv: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        parse(*argv)
    for word in words:
        assert word in str(error.value)


@given(st.text(max_size=20))
def test_any_text_as_a_value_is_taken_or_refused_cleanly(text: str) -> None:
    try:
        value = build_config(Toy, {"gp_scale": text}).gp_scale
    except InputError:
        return
    assert value >= 0


def test_dry_run_prints_the_resolved_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--preset", "big", "--dry_run")
    assert end.value.code == 0
    resolved = as_params(Toy())
    assert json.loads(capsys.readouterr().out) == {**resolved, "offsets": []}


def test_help_names_every_field_with_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "weight (>= 0; small: 10.0, big: 5.0)" in text
    assert "pixels (32 | 48 | 64 | 128; small: 32, big: 128)" in text
    assert "any number (default: 0.0)" in text
    assert "which (small | big; default: small)" in text


@dataclass(frozen=True, config=CONFIG)
class OtherToy(Toy):
    """Another toy."""

    gp_scale: float = with_default(Toy, "gp_scale", 3.0)
    data_dir: OptionalPath = with_default(Toy, "data_dir", "here")
    colour: str = option("red", "its colour")


def test_help_has_the_own_fields_first_the_preset_before_them_and_shared_ones_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse_config(OtherToy, PRESETS, ["--help"], "toy")
    text = capsys.readouterr().out
    parts = re.split(r"^([a-z ]+):$", text, flags=re.MULTILINE)[1:]
    groups = {
        title: re.findall(r"^  --(\w+)", text, re.MULTILINE)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert list(groups.items()) == [
        ("parameters", ["preset", "colour"]),
        ("a toy", ["image_size", "gp_scale", "flip", "data_dir", "shift", "offsets", "width"]),
        ("records", ["output_dir", "run_name"]),
        ("instead of running", ["help", "dry_run"]),
    ]
    # Defaults as one would write them.
    assert "name of the run in MLflow (default: not given)" in " ".join(text.split())
    assert "numbers (default: none)" in " ".join(text.split())


def test_another_default_keeps_limits_and_use_on_resuming() -> None:
    assert build_config(OtherToy, {}).gp_scale == 3.0
    with pytest.raises(InputError, match="gp_scale: -1 is not allowed, input should be greater than or equal to 0"):
        build_config(OtherToy, {"gp_scale": -1})
    assert operational_fields(OtherToy) == operational_fields(Toy) == {"data_dir", "output_dir", "run_name"}


def test_a_resumed_run_may_differ_in_operational_fields_and_where_it_is_allowed_in_changeable_ones() -> None:
    before = as_params(Toy())

    def check(config: Toy, other_data: str | None = None, *, data: bool = True, allow_changes: bool = False) -> None:
        changeable = {"flip", "data"} if data else {"flip"}
        check_unchanged(
            config,
            before,
            operational=operational_fields(Toy),
            changeable=changeable,
            other_data=other_data,
            allow_changes=allow_changes,
        )

    check(Toy(data_dir="there", run_name="second"))
    with pytest.raises(
        InputError, match=r"resume: flip was False, now True; the images are others; give the old.*allow_"
    ):
        check(Toy(flip=True), "the images are others")
    check(Toy(flip=True), "the images are others", allow_changes=True)
    for allow_changes in (False, True):
        with pytest.raises(
            InputError, match=r"resume: gp_scale was 5.0, now 3.0; the run's checkpoint cannot go on with that"
        ):
            check(Toy(flip=True, gp_scale=3.0), allow_changes=allow_changes)
        with pytest.raises(
            InputError, match="resume: the images are others; the run's checkpoint cannot go on with that"
        ):
            check(Toy(), "the images are others", data=False, allow_changes=allow_changes)
    del before["gp_scale"]  # a checkpoint of before there was such a parameter
    check(Toy(gp_scale=3.0), allow_changes=True)


PLACES = {"data_dir", "cache_dir", "on_bad", "output_dir"}
EEG_PLACES = {"download", "subject_table"}
RESUMABLE = {"device", "nproc", "max_restarts", "run_name", "resume", "allow_changes", *PLACES}


@pytest.mark.parametrize(
    ("entry_point", "fields"),
    [
        ("wgan", {*RESUMABLE, "steps", "log_every", "sample_every", "checkpoint_every", "n_samples"}),
        ("eeg_transformer", {*RESUMABLE, *EEG_PLACES}),
        ("eeg_simclr", {*RESUMABLE, *EEG_PLACES}),
        ("efficient_attention", {*RESUMABLE, *EEG_PLACES}),
    ],
)
def test_no_field_that_changes_a_result_is_operational(entry_point: str, fields: set[str]) -> None:
    assert operational_fields(config_class_of(importlib.import_module(f"trainers.{entry_point}.run"))) == fields


# ----------------------------------------------------------------------------------------------------------------
# MLproject

MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
MLPROJECT_TEXT = (ROOT / "MLproject").read_text()


NEEDED = {("wgan", "photos"): {"data_dir": "photos.zip"}}
"""What a preset cannot do without."""


@pytest.mark.parametrize("entry_point", MLPROJECT["entry_points"])
def test_mlproject_agrees_with_the_config(entry_point: str) -> None:
    """Every declared parameter is a field with the same default, whichever preset; every placeholder is declared and
    used.
    """
    module = importlib.import_module(f"trainers.{entry_point}.run")
    config_class = config_class_of(module)
    entry = MLPROJECT["entry_points"][entry_point]
    declared = entry["parameters"]
    placeholders = re.findall(r"{(\w+)}", entry["command"])
    assert sorted(placeholders) == sorted(declared)
    words = shlex.split(entry["command"])
    assert words[:3] == ["python", "-m", f"trainers.{entry_point}"]
    presets = getattr(module, "PRESETS", {})
    for name, details in declared.items():
        assert words[words.index(f"--{name}") + 1] == f"{{{name}}}"
        for preset in presets or [None]:
            given = ["--preset", preset] if preset and name != "preset" else []
            needed = NEEDED.get((entry_point, preset or ""), {}) if given else {}
            given += [word for field, value in needed.items() for word in (f"--{field}", value)]
            if name in needed:
                continue
            config = parse_config(config_class, presets, given, entry_point)
            default = as_params(config)[name]
            if not (name == "preset" and preset != details["default"]):
                assert str(details["default"]) == str(default)
    # and what mlflow would run parses
    argv = [word.format(**{k: v["default"] for k, v in declared.items()}) for word in words[3:]]
    parse_config(config_class, presets, argv, entry_point)


@pytest.mark.parametrize("entry_point", MLPROJECT["entry_points"])
def test_defaults_are_the_exercises_setting_and_the_first_preset_is_quick(entry_point: str) -> None:
    """A preset that the fields' defaults stand for changes nothing."""
    module = importlib.import_module(f"trainers.{entry_point}.run")
    config_class, presets = config_class_of(module), getattr(module, "PRESETS", {})
    if presets:
        assert next(iter(presets)) == "quick"
        assert presets[config_class().preset] == {}
    for preset, values in presets.items():
        defaults = as_params(config_class())
        changed = as_params(preset_config(config_class, presets, preset, **NEEDED.get((entry_point, preset), {})))
        assert {name for name in values if changed[name] == defaults[name]} == set()


def test_the_last_value_given_counts() -> None:
    assert given_value(["--seed", "1", "--target=a", "--target", "b"], "target") == "b"
    assert given_value(["--target", "a", "--target=b=c"], "target") == "b=c"
    assert given_value(["--targets", "a"], "target") is None
    assert given_value(["--target"], "target") is None


def test_the_makefile_has_mlprojects_entry_points() -> None:
    shown = subprocess.run(["make", "-pnq", "lint"], cwd=ROOT, capture_output=True, text=True).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("ENTRY_POINTS := ")]
    assert line.split()[2:] == list(MLPROJECT["entry_points"])


def test_mlproject_has_no_quoted_placeholder_and_no_scientific_notation() -> None:
    assert not re.search(r"['\"]\{\w+\}['\"]", MLPROJECT_TEXT)  # a quoted one opens the shell to what users type
    assert not re.search(r"default: *-?[\d.]+[eE][-+]?\d", MLPROJECT_TEXT)  # YAML reads 1e-4 as a string


def test_the_docker_project_has_the_same_entry_points() -> None:
    """A project has one environment, so `mlflow run docker` has an MLproject of its own."""
    docker = yaml.safe_load((ROOT / "docker" / "MLproject").read_text())
    assert docker["entry_points"] == MLPROJECT["entry_points"], "MLproject changed: run `python docker/sync.py`"
    assert set(docker) == {"name", "docker_env", "entry_points"}


def test_under_mlflow_run_a_relative_data_dir_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--data_dir=photos"]
    assert parse_config(Toy, PRESETS, argv, "toy").data_dir == Path("photos")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    words = f"data_dir: 'photos' is not in {tmp_path}, the project's folder, .* absolute"
    with pytest.raises(InputError, match=words):
        parse_config(Toy, PRESETS, argv, "toy")
    with pytest.raises(InputError, match=words):
        parse_config(Faces, {}, argv, "faces")
    (tmp_path / "photos").mkdir()
    assert parse_config(Toy, PRESETS, argv, "toy").data_dir == Path("photos")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--preset=--"], "preset: '--' is not allowed; choose one of small, big"),
        (["--gp_scale=--"], "gp_scale: '--' is not allowed"),
        (
            ["--width", "9" * 400],
            "width: 9999999999999999999999999999999999999999 is too large, whole numbers are at most",
        ),
        (["--width", str(2**31)], "width: 2147483648 is too large"),
        (["--width=-99999999999"], "width: -99999999999 is too large"),
        (["width=3"], "toy takes parameters as --name value: write --width 3"),
        (["with=3"], "toy has no parameter 'with'; did you mean width?"),
    ],
)
def test_what_looks_like_an_option_or_is_larger_than_any_is_refused(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        parse_config(Toy, PRESETS, argv, "toy")
    assert parse_config(Toy, PRESETS, ["--gp_scale", "99999999999"], "toy").gp_scale == 99999999999


def test_widths_that_no_machine_holds_are_refused() -> None:
    for name in ("nz", "ngf", "ndf"):
        for value in (10**6, 2**31 - 1, 10**12):
            with pytest.raises(InputError, match=f"{name}: .*(less than or equal to|too large)"):
                build_config(WganConfig, {"dataset": "digits", name: value})
