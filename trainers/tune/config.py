"""The parameters of `tune`, and what follows from them alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from pydantic.dataclasses import dataclass

from common.errors import InputError
from trainers.tune.space import Space, parse_space, split_settings
from trainers.tune.targets import TARGETS, load_target
from training.config import (
    CONFIG,
    DeviceConfig,
    OptionalPath,
    OptionalStr,
    RecordConfig,
    Strings,
    given_value,
    option,
)
from training.tuning import Target

DEFAULT_TARGET = "wgan"

PRESETS: dict[str, dict[str, Any]] = {
    **{name: {} for name in load_target(DEFAULT_TARGET).presets},
    "quick": {"n_trials": 10, "n_best": 2, "n_seeds": 2, "n_workers": 2},
}
"""Presets have the trainer's names: these are the default trainer's, `presets_for` gives those of another."""


def presets_for(presets: Mapping[str, Mapping[str, Any]], argv: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The presets under the names that the trainer has which a command line asks for."""
    return {name: presets.get(name, {}) for name in load_target(given_value(argv, "target") or DEFAULT_TARGET).presets}


@dataclass(frozen=True, config=CONFIG)
class TuneConfig(DeviceConfig, RecordConfig):
    """Search the parameters of a trainer (Optuna), repeat the best few over seeds, train and register the winner."""

    preset: str = option(
        load_target(DEFAULT_TARGET).full_preset,
        f"the trainer's preset, such as {', '.join(PRESETS)} of {DEFAULT_TARGET}; quick: short trainings too, a study "
        "of minutes on two CPU cores",
    )
    # What
    target: str = option(DEFAULT_TARGET, f"the trainer: {', '.join(TARGETS)}")
    space: OptionalStr = option(
        None, "search space, instead of the trainer's own: gp_scale=log:0.1..100, n_dis=1|2|3, n_layers=1..4"
    )
    fixed: OptionalStr = option(
        None, "other parameters of the trainer, for all runs of the study: steps=200, batch_size=32"
    )
    final: OptionalStr = option(None, "parameters of the winner's last training only, such as steps=10000")
    objective: Strings = option(
        (),
        "figures on validation data to choose by, such as accuracy; two give a Pareto front; not given: the trainer's",
    )
    features: OptionalStr = option(
        None, "feature network of distances between images: a name as in `fid`, models:/..., or a file"
    )
    data_dir: OptionalPath = option(None, "folder or file of the trainer's data")
    # How much
    n_trials: int = option(50, "trials, of all workers together", ge=1)
    n_best: int = option(3, "best configurations to repeat", ge=1)
    n_seeds: int = option(3, "repetitions of each, with other seeds", ge=1)
    pruner: Literal["median", "hyperband", "none"] = option(
        "median", "which trials stop early: those worse than the median, those that successive halving drops, none"
    )
    # How
    study: OptionalStr = option(None, "name of the study; a study of this name is continued; not given: target-preset")
    storage: OptionalStr = option(
        None, "database URL ($NAME stands for an environment variable), or a journal file; not given: one in output_dir"
    )
    n_workers: int = option(1, "worker processes on this machine; GPUs are assigned to them in turn", ge=0)
    seed: int = option(0, "seed of the search; seeds of trials and repetitions derive from it", ge=0, le=10**9)
    cache_dir: Path = option(Path("cache"), "folder of decoded data, shared by runs")

    @property
    def trainer(self) -> Target:
        """What the trainer exports for `tune`."""
        return load_target(self.target)

    def study_name(self) -> str:
        return self.study or f"{self.target}-{self.preset}"

    def journal(self) -> Path:
        """Where the study is kept if no storage is given."""
        return self.output_dir / "studies" / f"{self.study_name()}.journal"

    def declared_space(self) -> Mapping[str, str]:
        """The search space as text: the trainer's own, or the one given."""
        if self.space is None:
            return self.trainer.space_of(self.preset)
        return split_settings("" if self.space == "{}" else self.space, "space")

    def search_space(self) -> Space:
        return parse_space(self.declared_space())

    def fixed_values(self) -> dict[str, str]:
        return split_settings(self.fixed or "", "fixed")

    def final_values(self) -> dict[str, Any]:
        return {**self.trainer.final_of(self.preset), **split_settings(self.final or "", "final")}

    def objectives(self) -> tuple[str, ...]:
        """Names of what is searched for; InputError for those the trainer has not."""
        names, known = self.objective or self.trainer.default_objectives, self.trainer.objectives
        if not set(names) <= set(known) or len(set(names)) < len(names) or len(names) > 2:
            raise InputError(
                f"objective: {', '.join(names)}; target={self.target} takes one or two of {', '.join(known)}"
            )
        return tuple(names)

    def places(self) -> dict[str, Any]:
        """Where the trainer reads, computes and writes."""
        here: dict[str, Any] = {"device": self.device, "cache_dir": self.cache_dir, "output_dir": self.output_dir}
        if self.data_dir is not None:
            here["data_dir"] = self.data_dir
        if self.trainer.split_seed is not None:
            here[self.trainer.split_seed] = self.seed
        return here

    def trial_config(self, params: Mapping[str, Any], **run: Any) -> Any:
        """The trainer's config of a trial or repetition with `params`; run: its seed, its name, what it resumes."""
        values = {**self.trainer.every_trial, **self.fixed_values(), **params, **self.places(), **run}
        return self.trainer.build(self.preset, values)

    def final_config(self, params: Mapping[str, Any], **run: Any) -> Any:
        """The trainer's config of the winner's last training."""
        values = {**self.fixed_values(), **params, **self.final_values(), **self.places(), **run}
        return self.trainer.build(self.preset, values)

    def n_trials_of(self, study: optuna.Study) -> int:
        """Trials wanted: the highest number that anyone has asked of this study."""
        return max(self.n_trials, study.user_attrs.get("n_trials", 0))

    def build_pruner(self) -> optuna.pruners.BasePruner:
        """The pruner of the search."""
        config = self.trial_config({})
        horizon = self.trainer.length(config)
        if self.pruner == "median":
            # The first quarter tells little; three finished trials are the least a median should be of.
            return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=horizon // 4)
        if self.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=self.trainer.report_every(config), max_resource=horizon, reduction_factor=3
            )
        return optuna.pruners.NopPruner()

    def spec(self) -> dict[str, Any]:
        """What makes the study this study: compared whenever the study is continued."""
        return {
            "target": self.target,
            "preset": self.preset,
            "space": dict(self.declared_space()),
            "fixed": self.fixed_values(),
            "objective": list(self.objectives()),
            "features": self.features or "",
            "seed": self.seed,
        }

    def asked_of(self, study: optuna.Study) -> dict[str, Any]:
        """What the command asks of a study besides its search."""
        n_trials = self.n_trials_of(study)
        return {"n_trials": n_trials, "n_best": self.n_best, "n_seeds": self.n_seeds, "final": self.final or ""}

    def check(self) -> None:
        """InputError for anything that would fail in the middle of the study."""
        space, fixed = self.search_space(), self.fixed_values()
        both = sorted(set(space) & set(fixed))
        if both:
            raise InputError(f"fixed: {', '.join(both)} is searched as well; leave it out of one of the two")
        own = {*self.places(), "seed", "resume", "run_name", "preset"}
        taken = sorted({*space, *fixed, *self.final_values()} & own)
        if taken:
            raise InputError(f"space, fixed: {', '.join(taken)} is set by tune itself; give it as a parameter of tune")
        self.objectives()
        base = self.trial_config({})
        self.final_config({})
        for name in space:
            if not hasattr(base, name):
                raise InputError(f"space: {self.target} has no parameter {name}")
        if base.nproc != 1:
            raise InputError(f"fixed: nproc={base.nproc}; a trial is one process, give n_workers instead")
        self.trainer.check(base)
