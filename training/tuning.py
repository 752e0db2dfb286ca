"""What `tune` needs of a trainer. The trainer's folder exports it as `TARGET` in its `tuning.py`.

Nothing here trains: a trial is a run of the trainer's own code, with a config and a `StudyTrial`.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from common.errors import InputError
from tracking.run import AnyRun
from training.config import as_option, as_params, build_config
from training.trial import StudyTrial

Presets = Mapping[str, Mapping[str, Any]]

Measure = Callable[[nn.Module, Tensor], Mapping[str, float]]
"""(network, a batch of its inputs) -> {objective: value}."""

MeasureFor = Callable[[Any, tuple[str, ...], AnyRun, str | None], Measure]
"""(the trainer's config, objectives, the run that records a feature network, `features` of tune) -> Measure."""


def measure_nothing(config: Any, objectives: tuple[str, ...], run: AnyRun, features: str | None) -> Measure:
    """The measure of a trainer that reports all objectives itself."""
    return lambda network, example: {}


@dataclass(frozen=True)
class ByHand:
    """How a configuration is trained outside a study: the entry point, its config and its presets."""

    entry_point: str
    config: Any
    presets: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A trainer that can be tuned.

    name: the trainer's folder. config: its config class. train: (config, the run's place in a study) -> exit status.
    space: what is searched, in the language of tune's parameter `space`.
    objectives: {name: minimize or maximize}; default_objectives: those of a study that names none.
    horizon: the field that ends a training, in the unit of the steps reported.
    every_run: settings of all runs of a study; every_trial: of all runs but the winner's last training.
    quick, quick_final, quick_space: what the preset quick adds to all runs, to the last training, and to the space.
    split_seed: the field that is given the study's seed, so that all trials share one division of the data.

    check: raises InputError for a config without validation data of its own. prepare: makes what all workers need and
    only one should make. validation, test: measures of a network on validation data and on test data, for objectives
    that the trainer does not report itself. test_metrics: names of the test figures that the trainer records.
    by_hand: how the config is trained outside a study; None: by this trainer.
    presets_of: (presets, the data set asked for, if any) -> the presets for it.
    """

    name: str
    config: type
    presets: Presets
    train: Callable[[Any, StudyTrial], int]
    space: Mapping[str, str]
    objectives: Mapping[str, str]
    default_objectives: tuple[str, ...]
    horizon: str
    check: Callable[[Any], None]
    every_run: Mapping[str, Any] = field(default_factory=dict)
    every_trial: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    quick_final: Mapping[str, Any] = field(default_factory=dict)
    quick_space: Mapping[str, str] = field(default_factory=dict)
    split_seed: str | None = None
    prepare: Callable[[Any, AnyRun, str | None], None] = lambda config, run, features: None
    validation: MeasureFor = measure_nothing
    test: MeasureFor = measure_nothing
    test_metrics: Callable[[Any], tuple[str, ...]] = lambda config: ()
    by_hand: Callable[[Any], ByHand] | None = None
    presets_of: Callable[[Presets, str | None], Presets] = lambda presets, dataset: presets

    def space_of(self, preset: str) -> Mapping[str, str]:
        """The declared search space; less of it for the preset quick."""
        return {**self.space, **(self.quick_space if preset == "quick" else {})}

    def final_of(self, preset: str) -> Mapping[str, Any]:
        """Settings of the winner's last training alone."""
        return self.quick_final if preset == "quick" else {}

    @property
    def full_preset(self) -> str:
        """The preset that changes nothing: the fields' defaults are the exercise's setting."""
        return next(name for name, values in self.presets.items() if not values)

    def build(self, preset: str, values: Mapping[str, Any]) -> Any:
        """The trainer's config: its preset, overridden by the settings of a study and by `values`.

        Raises InputError for an unknown preset or parameter, and for values that are not allowed.
        """
        if preset not in self.presets:
            raise InputError(f"preset: target={self.name} has {', '.join(self.presets)}, not {preset}")
        known = {field.name for field in fields(self.config)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"{self.name} has no parameter {', '.join(unknown)}; its own are {', '.join(sorted(known))}"
            )
        quick = self.quick if preset == "quick" else {}
        usual = {**self.presets[preset], **self.every_run, **quick}
        own = self.presets_of({preset: usual}, values.get("dataset"))[preset]
        return build_config(self.config, {**own, "preset": preset, **values})

    def length(self, config: Any) -> int:
        """Steps of a training with `config`."""
        return int(getattr(config, self.horizon))

    def report_every(self, config: Any) -> int:
        """Steps between two measurements: eight in a training."""
        return max(1, self.length(config) // 8)

    def command(self, config: Any) -> str:
        """The command that trains this config again, outside a study, for a shell."""
        found = self.by_hand(config) if self.by_hand else ByHand(self.name, config, self.presets)
        preset = found.config.preset
        default = as_params(build_config(type(found.config), {**found.presets[preset], "preset": preset}))
        elsewhere = {"preset", "output_dir", "cache_dir", "run_name", "resume"}
        changed = {k: v for k, v in as_params(found.config).items() if k not in elsewhere and v != default[k]}
        words = {k: "none" if value is None else as_option(value) for k, value in changed.items()}
        options = "".join(f" --{option} {shlex.quote(word)}" for option, word in words.items())
        return f"python -m trainers.{found.entry_point} --preset {preset}{options}"
