"""The parameters of `tune`, and what follows from them alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from common.errors import InputError
from trainers.tune.space import parse_space, split_settings
from trainers.tune.targets import TARGETS
from training.config import CONFIG, DeviceConfig, OptionalPath, OptionalStr, RecordConfig, Strings, option
from training.tuning import Target


@dataclass(frozen=True, config=CONFIG)
class TuneConfig(DeviceConfig, RecordConfig):
    """Search the parameters of a trainer (Optuna), repeat the best few over seeds, train and register the winner."""

    preset: Literal["quick", "eurosat", "cifar10", "celeba", "physionet"] = option(
        "celeba", "the trainer's preset; quick: short trainings too, a study of minutes on two CPU cores"
    )
    # What
    target: str = option("wgan", f"the trainer: {', '.join(TARGETS)}")
    space: OptionalStr = option(
        None, "search space, instead of the trainer's own: gp_scale=log:0.1..100, n_dis=1|2|3, n_layers=1..4"
    )
    fixed: OptionalStr = option(
        None, "other parameters of the trainer, for all runs of the study: steps=200, batch_size=32"
    )
    final: OptionalStr = option(None, "parameters of the winner's last training only, such as steps=10000")
    objective: Strings = option(
        (),
        "kernel_distance, frechet_distance (wgan), log_loss, accuracy, latency_ms (EEG); two give a Pareto front",
    )
    features: OptionalStr = option(
        None, "feature network of wgan's distances: digits, efficientnet, inception, models:/..., or a file"
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

    @model_validator(mode="after")
    def _target_known(self) -> "TuneConfig":
        if self.target not in TARGETS:
            raise ValueError(f"target: {self.target!r} cannot be tuned; choose one of {', '.join(TARGETS)}")
        return self

    def study_name(self) -> str:
        return self.study or f"{self.target}-{self.preset}"

    def journal(self) -> Path:
        """Where the study is kept if no storage is given."""
        return self.output_dir / "studies" / f"{self.study_name()}.journal"

    def space_of(self, target: Target) -> Mapping[str, str]:
        """The search space: the trainer's own, or the one given."""
        if self.space is None:
            return target.space_of(self.preset)
        return split_settings("" if self.space == "{}" else self.space, "space")

    def fixed_values(self) -> dict[str, str]:
        return split_settings(self.fixed or "", "fixed")

    def final_values(self, target: Target) -> dict[str, Any]:
        given = split_settings(self.final or "", "final")
        return {**(target.quick_final if self.preset == "quick" else {}), **given}

    def objectives(self, target: Target) -> tuple[str, ...]:
        """Names of what is searched for; InputError for those the target has not."""
        names = self.objective or target.default_objectives
        unknown = [name for name in names if name not in target.objectives]
        if unknown or len(set(names)) < len(names) or len(names) > 2:
            raise InputError(
                f"objective: {', '.join(names)}; target={target.name} takes one or two of "
                f"{', '.join(target.objectives)}"
            )
        return tuple(names)

    def places(self, target: Target) -> dict[str, Any]:
        """Where the trainer reads, computes and writes."""
        here: dict[str, Any] = {"device": self.device, "cache_dir": self.cache_dir, "output_dir": self.output_dir}
        if self.data_dir is not None:
            here["data_dir"] = self.data_dir
        if target.split_seed is not None:
            here[target.split_seed] = self.seed
        return here

    def n_trials_of(self, study: optuna.Study) -> int:
        """Trials wanted: the highest number that anyone has asked of this study."""
        return max(self.n_trials, study.user_attrs.get("n_trials", 0))

    def build_pruner(self, target: Target) -> optuna.pruners.BasePruner:
        """The pruner of the search."""
        config = target.build(self.preset, {**self.fixed_values(), **self.places(target)})
        horizon = target.length(config)
        if self.pruner == "median":
            # The first quarter tells little; three finished trials are the least a median should be of.
            return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=horizon // 4)
        if self.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=target.report_every(config), max_resource=horizon, reduction_factor=3
            )
        return optuna.pruners.NopPruner()

    def spec(self, target: Target) -> dict[str, Any]:
        """What makes the study this study: compared whenever the study is continued."""
        return json.loads(
            json.dumps(
                {
                    "target": self.target,
                    "preset": self.preset,
                    "space": dict(self.space_of(target)),
                    "fixed": self.fixed_values(),
                    "objective": list(self.objectives(target)),
                    "features": self.features or "",
                    "seed": self.seed,
                }
            )
        )

    def check(self, target: Target) -> None:
        """InputError for anything that would fail in the middle of the study."""
        space = parse_space(self.space_of(target))
        fixed = self.fixed_values()
        both = sorted(set(space) & set(fixed))
        if both:
            raise InputError(f"fixed: {', '.join(both)} is searched as well; leave it out of one of the two")
        own = sorted(
            {*space, *fixed, *self.final_values(target)}
            & {*self.places(target), "seed", "resume", "run_name", "preset"}
        )
        if own:
            raise InputError(f"space, fixed: {', '.join(own)} is set by tune itself; give it as a parameter of tune")
        self.objectives(target)
        base = target.build(self.preset, {**target.every_trial, **fixed, **self.places(target)})
        target.build(self.preset, {**fixed, **self.final_values(target), **self.places(target)})
        for name in space:
            if not hasattr(base, name):
                raise InputError(f"space: {target.name} has no parameter {name}")
        target.check(base)
        if base.nproc != 1:
            raise InputError(f"fixed: nproc={base.nproc}; a trial is one process, give n_workers instead")


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"n_trials": 10, "n_best": 2, "n_seeds": 2, "n_workers": 2},
    "eurosat": {},
    "cifar10": {},
    "celeba": {},
    "physionet": {},
}
