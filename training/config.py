"""From a frozen config class and a command line to a checked config: the one way every entry point reads its
parameters.

A trainer declares one frozen pydantic dataclass. Its fields are the command line (`--gp_scale 10`), the checks (ranges,
choices) and the help text. `mlflow run . -e wgan -P gp_scale=5` arrives here as `--gp_scale 5`. Fields that several
trainers have come from the classes below (`MachineConfig`, `RecordConfig`, `ResumableConfig`).

A field's default is the exercise's own setting. Presets are dicts of the fields that they change; the first one is the
command line's, if none is given.
"""

import argparse
import dataclasses
import difflib
import json
import os
import re
import subprocess
import sys
import typing
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from common.errors import InputError

C = TypeVar("C")

LARGEST = 2**31 - 1
"""Whole numbers beyond it overflow somewhere in torch or NumPy."""

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Settings every config class shares: unknown names, inf and NaN are refused."""


def _integer_if_digits(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().lstrip("-").isdigit() else value


def _none_if_empty(value: Any) -> Any:
    return None if value in ("", "none", "None") else value


# Types that several configs use. `-P data_dir=` (empty) means "not given".
ImageSize = Annotated[Literal[32, 48, 64, 128], BeforeValidator(_integer_if_digits)]
OptionalPath = Annotated[Path | None, BeforeValidator(_none_if_empty)]
OptionalInteger = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none_if_empty)]
OptionalStr = Annotated[str | None, BeforeValidator(_none_if_empty)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _split_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return () if value == "none" else tuple(part.strip() for part in value.split(",") if part.strip())


# Lists: `1,3,30`, or `none`.
Integers = Annotated[tuple[int, ...], BeforeValidator(_split_list)]
Floats = Annotated[tuple[float, ...], BeforeValidator(_split_list)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_split_list)]


def option(default: Any, help: str, *, operational: bool = False, changeable: bool = False, **limits: Any) -> Any:
    """A config field: its default, its help text, and its limits (`ge`, `gt`, `le`, `lt`).

    operational: it changes where and how a run computes or reports, not what it computes, so a resumed run may have
    another value. changeable: with `allow_changes` it may have another value, too; with any other field a checkpoint
    cannot go on, as its networks have other shapes, or its finished parts are of other data.
    """
    extra = {"operational": operational, "changeable": changeable}
    return Field(default=default, description=help, json_schema_extra={**extra}, **limits)


def with_default(base: type, name: str, default: Any) -> Any:
    """The field `name` of the config class `base` with another default."""
    field = _fields(base)[name]
    uses = {use: _is(use, field) for use in ("operational", "changeable")}
    return option(default, field.description, **uses, **dict(_limits(field)))


def operational_fields(config_class: type) -> frozenset[str]:
    """Names of the fields in which a resumed run may differ from before."""
    return frozenset(name for name, field in _fields(config_class).items() if _is("operational", field))


def changeable_fields(config_class: type) -> frozenset[str]:
    """Names of the fields in which a resumed run may differ from before with `allow_changes`."""
    return frozenset(name for name, field in _fields(config_class).items() if _is("changeable", field))


@dataclass(frozen=True, config=CONFIG)
class DeviceConfig:
    """Where the trainer computes."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: a GPU if there is one", operational=True)


@dataclass(frozen=True, config=CONFIG)
class MachineConfig(DeviceConfig):
    """Processes."""

    nproc: int = option(1, "processes on this machine, one GPU each (torchrun starts them)", operational=True, ge=1)
    max_restarts: int = option(
        0, "times that torchrun restarts all processes after one of them is lost", operational=True, ge=0
    )


@dataclass(frozen=True, config=CONFIG)
class RecordConfig:
    """Records."""

    output_dir: Path = option(
        Path("runs"),
        "folder for checkpoints and for records not yet delivered to the tracking server",
        operational=True,
    )
    run_name: OptionalStr = option(None, "name of the run in MLflow", operational=True)


@dataclass(frozen=True, config=CONFIG)
class ResumableConfig:
    """Resuming."""

    resume: OptionalStr = option(None, "continue this run: its id, or latest", operational=True)
    allow_changes: bool = option(False, "allow other hyper-parameters than before when resuming", operational=True)


def parse_config(config_class: type[C], presets: Mapping[str, Mapping[str, Any]], argv: Sequence[str], prog: str) -> C:
    """The config that `argv` asks for: defaults, overridden by the preset, overridden by what was given.

    presets: {name: values}, the first of them for an `argv` without `--preset`; empty for a config without presets.
    Raises InputError for an unknown name or a value that is not allowed. `--help` prints every parameter and exits;
    `--dry_run` prints the resolved config as JSON and exits.
    """
    parser = _argument_parser(config_class, presets, prog)
    namespace, unknown = parser.parse_known_args(_joined(argv, _fields(config_class)))
    if unknown:
        name, equals, value = unknown[0].partition("=")
        if not name.startswith("-") and equals and name in _fields(config_class):
            raise InputError(
                f"{prog} takes parameters as --name value: write --{name} {value} (with mlflow run, -P {name}={value})"
            )
        name = name.lstrip("-")
        close = difflib.get_close_matches(name, _fields(config_class), n=1)
        hint = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(_fields(config_class))}"
        raise InputError(f"{prog} has no parameter {name!r}; {hint}")
    # argparse makes an empty list of the value --.
    words = {name: "--" if value == [] else value for name, value in vars(namespace).items()}
    given = {name: value for name, value in words.items() if value not in (None, "")}
    dry_run = given.pop("dry_run", False)
    if presets:
        preset = given.pop("preset", next(iter(presets)))
        if preset not in presets:
            raise InputError(f"preset: {preset!r} is not allowed; choose one of {', '.join(presets)}")
        config = preset_config(config_class, presets, preset, **given)
    else:
        config = build_config(config_class, given)
    _check_places(config)
    if dry_run:
        print(json.dumps(as_params(config), indent=2))
        sys.exit(0)
    return config


def changed_fields(config: Any, presets: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Those of the fields `names` in which a config differs from its preset."""
    values, fields = presets[config.preset], _fields(type(config))
    return [name for name in names if getattr(config, name) != values.get(name, fields[name].default)]


def preset_config(config_class: type[C], presets: Mapping[str, Mapping[str, Any]], preset: str, **changes: Any) -> C:
    """The config of a preset, with `changes`; InputError as from `build_config`."""
    return build_config(config_class, {**presets[preset], "preset": preset, **changes})


def build_config(config_class: type[C], values: Mapping[str, Any]) -> C:
    """`config_class(**values)`, with every fault named in one InputError."""
    for name, value in values.items():
        text = str(value).strip()
        if _is_integer(config_class, name) and re.fullmatch(r"[+-]?\d{10,4000}", text) and abs(int(text)) > LARGEST:
            raise InputError(f"{name}: {text[:40]} is too large, whole numbers are at most {LARGEST}")
    try:
        return config_class(**values)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            message = fault["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            if fault["loc"]:
                faults.append(f"{fault['loc'][0]}: {fault['input']!r} is not allowed, {message}")
            else:
                faults.append(message)
        raise InputError("; ".join(faults)) from None


def _is_integer(config_class: type, name: str) -> bool:
    field = _fields(config_class).get(name)
    return field is not None and int in (field.annotation, *typing.get_args(field.annotation))


def as_params(config: Any) -> dict[str, Any]:
    """The config as a flat dict of JSON values, under its own names: what a run logs and a checkpoint holds.

    What was not given (None) is the empty string, as on the command line.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: "" if value is None else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
    }


def launch_processes(n_processes: int, module: str, argv: Sequence[str], max_restarts: int = 0) -> int | None:
    """Run `python -m module argv` in `n_processes` processes under torchrun; None if this process is to do the work
    itself.

    A process that torchrun started (LOCAL_RANK is set) or a single one that is not to be restarted does the work
    itself. When a process is lost torchrun starts all of them again, `max_restarts` times at most, and they go on from
    the checkpoint; not where one of them ended with an InputError, whose status 2 is then the status of all
    (training/torchrun.py).
    """
    if "LOCAL_RANK" in os.environ or (n_processes == 1 and max_restarts == 0):
        return None
    # The bare -- ends torchrun's own options: without it, it takes our --nproc for an abbreviation of one of them.
    torchrun = [sys.executable, "-m", "training.torchrun", "--standalone", f"--nproc-per-node={n_processes}"]
    command = [*torchrun, f"--max-restarts={max_restarts}", "-m", "--", module, *argv]
    # exec, so that a signal sent to this process reaches torchrun, which passes it to every worker.
    if sys.platform != "win32":
        sys.stdout.flush()
        os.execv(sys.executable, command)
    return subprocess.call(command)


def check_unchanged(
    config: object,
    before: Mapping[str, Any],
    *,
    operational: Container[str],
    changeable: Container[str],
    other_data: str | None,
    allow_changes: bool,
) -> None:
    """Refuse to resume with other parameters or other data than a checkpoint's: those that it cannot go on with always,
    the others unless `allow_changes`.

    before: the checkpoint's parameters, from `as_params`. operational: names of those that may differ
    (`operational_fields`). changeable: of those that may with `allow_changes`; "data" among them is the data. What an
    older checkpoint does not know is changeable. other_data: what to say of the data, None where they are the same.
    """
    differing = {
        name: f"{name} was {before.get(name)!r}, now {value!r}"
        for name, value in sorted(as_params(config).items())
        if name not in operational and before.get(name) != value
    }
    differing |= {"data": other_data} if other_data else {}
    fixed = [text for name, text in differing.items() if name not in changeable and name in (*before, "data")]
    if fixed:
        raise InputError(
            f"resume: {'; '.join(fixed)}; the run's checkpoint cannot go on with that: give the old values, or start a "
            "new run without resume"
        )
    if differing and not allow_changes:
        changed = list(differing.values())
        raise InputError(
            f"resume: {'; '.join(changed)}; give the old values, or allow_changes=true to continue with the new ones"
        )


def given_value(argv: Sequence[str], name: str) -> str | None:
    """The last value that a command line gives the parameter `name`; None where it gives none."""
    found = [word for word in _joined(argv, (name,)) if word.startswith(f"--{name}=")]
    return found[-1].partition("=")[2] if found else None


def _check_places(config: Any) -> None:
    """InputError for a relative path to data that `mlflow run` would look for in another folder than its caller's."""
    for name in ("data_dir", "subject_table") if "MLFLOW_RUN_ID" in os.environ else ():
        path = getattr(config, name, None)
        if path is None or path.is_absolute() or path.exists():
            continue
        raise InputError(
            f"{name}: {str(path)!r} is not in {Path.cwd()}, the project's folder, in which `mlflow run` starts its "
            "trainers; give an absolute path"
        )


def _joined(argv: Sequence[str], names: Container[str]) -> list[str]:
    """`--name value` as `--name=value`: argparse takes a value such as -1,0,1 or -1e-3 for an option where it stands
    alone.
    """
    joined: list[str] = []
    for word in argv:
        before = joined[-1] if joined else ""
        if before.startswith("--") and before[2:] in names and not word.startswith("--"):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _fields(config_class: type) -> dict[str, Any]:
    return config_class.__pydantic_fields__  # type: ignore[attr-defined]


class _Parser(argparse.ArgumentParser):
    """argparse whose own faults (a parameter without a value) are InputErrors, without the list of all parameters."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; write --name value, or see {self.prog} --help")


def _argument_parser(
    config_class: type, presets: Mapping[str, Mapping[str, Any]], prog: str
) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python -m trainers.{prog}",
        usage="%(prog)s [--name value] ...",
        description=(config_class.__doc__ or "").strip(),
        allow_abbrev=False,
        add_help=False,
    )
    fields = _fields(config_class)
    for title, names in _help_groups(config_class).items():
        group = parser.add_argument_group(title)
        for name in names:
            text = f"{fields[name].description} ({_allowed(fields[name])}{_defaults(name, fields[name], presets)})"
            group.add_argument(f"--{name}", metavar="VALUE", help=text.replace("%", "%%"))
    instead = parser.add_argument_group("instead of running")
    instead.add_argument("--help", "-h", action="help", help="print this text")
    instead.add_argument("--dry_run", action="store_true", help="print the resolved parameters as JSON")
    return parser


def _help_groups(config_class: type) -> dict[str, list[str]]:
    """{title: fields} for `--help`: the class's own with the preset first, then those that each base class declares,
    titled by its docstring.
    """
    own: list[str] = ["preset"] if "preset" in _fields(config_class) else []
    groups = {"parameters": own}
    for declaring in config_class.__mro__:
        names = [
            name
            for name in _fields(config_class)
            if name != "preset" and _first_declared(config_class, name) is declaring
        ]
        if declaring is config_class:
            own += names
        elif names:
            groups[(declaring.__doc__ or "").strip().rstrip(".").lower()] = names
    return groups


def _first_declared(config_class: type, name: str) -> type:
    """The class that declares the field, not one that only changes its default."""
    return [base for base in config_class.__mro__ if name in vars(base).get("__annotations__", {})][-1]


def _defaults(name: str, field: Any, presets: Mapping[str, Mapping[str, Any]]) -> str:
    """`default: 10`, or where presets differ, `quick: 10, celeba: 20`."""
    if name == "preset":
        return f"default: {next(iter(presets))}"
    if not any(name in values for values in presets.values()):
        return f"default: {as_option(field.default)}"
    return ", ".join(f"{preset}: {as_option(values.get(name, field.default))}" for preset, values in presets.items())


def as_option(value: Any) -> str:
    """The value as it is written on the command line; of one that was not given (None), that."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)


def _is(use: str, field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get(use))


def _limits(field: Any) -> Iterator[tuple[str, Any]]:
    """(ge, 1) and the like."""
    for limit in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if hasattr(limit, name):
                yield name, getattr(limit, name)


def _allowed(field: Any) -> str:
    """`32, 48 or 64; ` or `>= 1; ` or nothing."""
    if typing.get_origin(field.annotation) is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(field.annotation)) + "; "
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [f"{signs[name]} {value}" for name, value in _limits(field)]
    return f"{', '.join(limits)}; " if limits else ""
