"""Compare attention mechanisms that stay cheap on long sequences with the exact one: `mlflow run . -e
efficient_attention`.

The EEG Transformer is trained with each mechanism on the same folds, seeds and budget; then an encoder layer's
inference is timed over lengths of sequence against the exact layer, with memory and with the error of exchanging the
mechanism without training again; then come two tasks on which length matters, and a recording labelled as it comes in
(trainers/efficient_attention/tasks.py). The conclusion is written from these figures
(trainers/efficient_attention/conclusion.py). docs/efficient_attention.md explains; models/attention/spec.py has the
mechanisms.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from common.errors import InputError
from common.progress import Progress
from data.eeg.labelling import Recording, cycle_seconds, labels_without_signal, states_of, whole_recordings
from data.eeg.load import EegData
from data.eeg.recording import RecordingReport
from data.eeg.sources import EEG_SOURCES
from data.eeg.splits import Fold, shuffled_labels
from data.eeg.windows import Windows
from models.attention.spec import build_attention
from models.eeg.sequence_labeller import RecordingTransformer
from models.eeg.transformer import EegTransformer
from models.transformer import EncoderLayer
from tracking.run import AnyRun
from trainers.eeg_transformer.config import attention_spec, build_with_attention
from trainers.eeg_transformer.registry import register_transformer
from trainers.efficient_attention.conclusion import conclusion, plot_labelling, plot_over_length
from trainers.efficient_attention.config import PRESETS, SAME, EfficientAttentionConfig, transformer_config
from trainers.efficient_attention.scaling import (
    D_MODEL,
    EXACT,
    N_HEADS,
    QUADRATIC,
    allocator,
    backend,
    measure_memory,
    measure_times,
)
from trainers.efficient_attention.tasks import (
    Labelled,
    LabelSizes,
    RecallSizes,
    Streamed,
    inference_megabytes,
    label_recordings,
    latest_start,
    recall_accuracy,
    scale_of,
    stream_recording,
    tasks_report,
    whitened,
)
from training.config import launch_processes, parse_config
from training.eeg.baselines import build_eegnet, classical_results
from training.eeg.config import presets_for
from training.eeg.fit import ADVICE, Fitting, final_fit, seeded
from training.eeg.load import load_for
from training.eeg.records import (
    curves_by_fold,
    end_with_summary,
    log_figures,
    log_recordings,
    log_results,
    results_text,
)
from training.eeg.results import Result, check_leakage, network_results
from training.session import Session
from training.summary import render_summary
from training.trial import StudyTrial

R = TypeVar("R", Recording, RecordingReport)


def labelled_subjects(config: EfficientAttentionConfig, data: EegData) -> list[int]:
    """The subjects whose whole recordings are labelled."""
    return list(dict.fromkeys(report.subject for report in data.recordings))[: config.label_subjects]


def check_recordings(config: EfficientAttentionConfig, data: EegData) -> None:
    """InputError for labelling or streaming without recordings to train on and to test on, of states that are not
    there, or in longer parts than the recordings have; they come last, after all folds.
    """
    if not config.label_patches:
        return
    subjects = labelled_subjects(config, data)
    if config.label_test == "people" and len(subjects) < 2:
        raise InputError(
            "label_test=people: labelling trains on some subjects and tests on others, and there is one; give more, or "
            "label_test=runs"
        )
    check_states(config, data, subjects)
    shortest = round(min(r.seconds for r in data.recordings if r.subject in subjects) * data.sfreq)
    trained_on = shortest - latest_start(data.sfreq, cycle_seconds(data, subjects))
    for field, longest in (("label_patches", max(config.label_patches)), ("stream_patch", config.stream_patch)):
        if longest > trained_on:
            raise InputError(
                f"{field}: {longest} samples of a token are more than training sees of the shortest recording, "
                f"{trained_on} of {shortest}; give at most {max(1, trained_on)}, or label_patches=none"
            )
    if config.stream_piece > shortest:
        raise InputError(
            f"stream_piece: {config.stream_piece} samples are more than the shortest recording has, {shortest}; give "
            "at most that, or label_patches=none"
        )
    whole = shortest // config.stream_piece * config.stream_piece
    compared = min(whole, round(config.stream_seconds * data.sfreq))
    if config.stream_patch > compared:
        raise InputError(
            f"stream_patch: {config.stream_patch} samples of a token are more than the {compared} that come in within "
            f"a recording, in pieces of stream_piece={config.stream_piece} and stream_seconds={config.stream_seconds}; "
            f"give at most {compared}"
        )


def check_states(config: EfficientAttentionConfig, data: EegData, subjects: Sequence[int]) -> None:
    """InputError unless there are recordings to train on, with samples of every state, and others to test on."""
    reports = [report for report in data.recordings if report.subject in subjects]
    train, test = labelling_split(reports, config.label_test)
    if not train or not test:
        raise InputError(
            f"label_test={config.label_test}: nobody has two recordings, and labelling trains on a person's others and "
            "tests on the last; give label_test=people, or label_patches=none"
        )
    if data.reading is None:  # EEGMMI's annotations were checked when its trials were cut
        return
    states, label_of = states_of(data), labels_without_signal(data, subjects)
    latest = latest_start(data.sfreq, cycle_seconds(data, subjects))
    for what, part, first in (("train", train, latest), ("test", test, 0)):
        found = np.concatenate([label_of[report.subject, report.run][first:] for report in part])
        if missing := [name for k, name in enumerate(states) if not (found == k).any()]:
            raise InputError(
                f"label_patches: no sample is {missing[0]} in the recordings to {what} on ({part[0].file} ...): a task "
                "lasts as long as its event, or until tmax, and rest is what no event covers; give "
                "label_patches=none, or another label_test or tmax"
            )


@torch.no_grad()
def exchange_errors(
    network: EegTransformer, config: EfficientAttentionConfig, windows: Windows, fold: Fold
) -> dict[str, float]:
    """Relative error |out - exact| / |exact| of each mechanism on the trained network's own q, k and v in its first
    layer.
    """
    network = network.cpu().eval()
    x = windows.gather(fold.test[:64]).cpu()
    tokens = network.position(network.embed(x))
    layer = network.encoder.layers[0]
    assert isinstance(layer, EncoderLayer)
    h = layer.norm1(tokens)
    q, k, v = layer.self_attn.project(h, h, h)
    exact = build_attention(EXACT, q.shape[-1])(q, k, v)
    errors = {}
    for name in config.mechanisms:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            spec = attention_spec(config, name)
            generator = torch.Generator().manual_seed(config.seed)
            mechanism = build_attention(spec, q.shape[-1], generator, n_heads=q.shape[1]).eval()
        errors[name] = float((mechanism(q, k, v) - exact).norm() / exact.norm())
    return errors


def compared(config: EfficientAttentionConfig) -> tuple[str, ...]:
    """The exact mechanism, and those to compare with it."""
    return (EXACT, *(name for name in config.mechanisms if name != EXACT))


def record_scaling(
    run: AnyRun,
    config: EfficientAttentionConfig,
    windows: Windows,
    fold: Fold,
    exact: nn.Module,
    results: Mapping[str, Result],
    device: torch.device,
) -> str:
    """Measure over lengths, log curves, figures and tables; returns the conclusion. exact: the network of the exact
    mechanism, trained on `fold`.
    """
    names = compared(config)
    assert isinstance(exact, EegTransformer)
    errors = exchange_errors(exact, config, windows, fold)
    progress = Progress(len(names) * len(config.lengths) * (config.rounds + 1), unit="timing")
    seconds = measure_times(
        names, config.lengths, rounds=config.rounds, device=device, progress=lambda note: progress.advance(note=note)
    )
    progress.close()
    memory: dict[str, dict[int, float]] = {}
    if config.memory and device.type == "cpu":
        long = [n for n in config.lengths if n >= 1024]
        progress = Progress(len(names) * len(long), unit="measurement")
        memory = measure_memory(names, long, lambda note: progress.advance(note=note))
        progress.close()
    for name, points in seconds.items():
        for length, value in points.items():
            run.log_metrics({f"{name}_milliseconds": 1000 * value}, step=length)
    for name, points in memory.items():
        for length, value in points.items():
            run.log_metrics({f"{name}_megabytes": value}, step=length)
    run.log_metrics({f"{name}_exchange_error": value for name, value in errors.items()}, step=0)
    where = "GPU, device events" if device.type == "cuda" else "CPU time of one thread"
    run.log_figure(
        plot_over_length(seconds, "seconds", f"Encoder layer, one sequence ({where})"), "figures/seconds.png"
    )
    if any(value > 0 for points in memory.values() for value in points.values()):
        run.log_figure(plot_over_length(memory, "megabytes", "Growth of peak memory in one pass"), "figures/memory.png")
    rows = [
        {
            "mechanism": name,
            "tokens": length,
            "seconds": value,
            "tokens_per_second": length / value,
            "megabytes": memory.get(name, {}).get(length),
            "backend": backend(name, length, n_heads=N_HEADS, d_head=D_MODEL // N_HEADS, device=device),
            "allocator": allocator(),
            "device": where,
        }
        for name, points in seconds.items()
        for length, value in points.items()
    ]
    run.log_dict({"rows": rows, "exchange_error": errors}, "scaling.json")
    return conclusion(
        results, seconds, memory=memory, errors=errors, n_tokens=exact.n_tokens(config.window), device=where
    )


def record_tasks(run: AnyRun, config: EfficientAttentionConfig, data: EegData, device: torch.device) -> str:
    """Associative recall, labelling of whole recordings, and one of them as it comes in; returns their report."""
    recall: dict[str, dict[int, float]] = (
        {name: {} for name in compared(config) if name != SAME} if config.recall_pairs else {}
    )
    progress = Progress(len(recall) * len(config.recall_pairs), unit="recall task")
    for name in recall:
        for n_pairs in config.recall_pairs:
            accuracy = recall_accuracy(name, RecallSizes(n_pairs, config.recall_steps), config.seed, device)
            recall[name][2 * n_pairs] = accuracy
            run.log_metrics({f"{name}_recall_accuracy": accuracy}, step=2 * n_pairs)
            progress.advance(note=f"{name}, {2 * n_pairs} tokens: {accuracy:.3f}")
    progress.close()
    labelled, streamed = label_and_stream(run, config, data, device) if config.label_patches else ([], [])
    run.log_dict(
        {
            "recall": recall,
            "labelled": [asdict(row) for row in labelled],
            "streamed": [asdict(row) for row in streamed],
        },
        "tasks.json",
    )
    if recall:
        run.log_figure(
            plot_over_length(recall, "share of right answers", "Associative recall", share=True), "figures/recall.png"
        )
    if labelled:
        run.log_figure(plot_labelling(labelled, config.dataset, states_of(data)), "figures/labelling.png")
    people = f"people of {config.dataset}" if data.is_own else EEG_SOURCES[config.dataset].people
    what = f"{people[0].upper()}{people[1:]}, {config.label_test} that training did not see"
    return tasks_report(recall, labelled, streamed, what, states=states_of(data), on_gpu=device.type == "cuda")


def label_plans(
    config: EfficientAttentionConfig, data: EegData, subjects: Sequence[int], n_times: int
) -> tuple[list[LabelSizes], list[LabelSizes]]:
    """(what is trained to label recordings of n_times samples, the causal networks for streaming)."""
    cycle, n_states = cycle_seconds(data, subjects), len(states_of(data))

    def plan(name: str, patch_len: int, causal: bool = False) -> LabelSizes:
        return LabelSizes(
            name,
            patch_len,
            n_chans=len(data.ch_names),
            n_times=n_times,
            sfreq=data.sfreq,
            epochs=config.label_epochs,
            causal=causal,
            n_states=n_states,
            cycle_seconds=cycle,
        )

    plans = [
        plan(name, patch_len)
        for patch_len in config.label_patches
        for name in config.label_mechanisms
        if name not in (EXACT, *QUADRATIC) or n_times // patch_len <= config.label_exact_tokens
    ]
    return plans, [plan(name, config.stream_patch, causal=True) for name in config.stream_mechanisms]


def labelling_split(recordings: Sequence[R], by: str) -> tuple[list[R], list[R]]:
    """(to train on, to test on). by: "runs", each subject's last one is tested on; "people", the last third of them."""
    subjects = list(dict.fromkeys(r.subject for r in recordings))
    last = {s: max(r.run for r in recordings if r.subject == s) for s in subjects}
    others = subjects[-max(1, len(subjects) // 3) :]
    tested = [r.subject in others if by == "people" else r.run == last[r.subject] for r in recordings]
    chosen = list(zip(recordings, tested, strict=True))
    return [r for r, test in chosen if not test], [r for r, test in chosen if test]


def label_and_stream(
    run: AnyRun, config: EfficientAttentionConfig, data: EegData, device: torch.device
) -> tuple[list[Labelled], list[Streamed]]:
    """Train on some recordings, test on others; then causal networks for the recording that does not end."""
    subjects = labelled_subjects(config, data)
    recordings = whole_recordings(data, subjects)
    if config.align == "euclidean":
        recordings = [whitened(recording) for recording in recordings]
    train, test = labelling_split(recordings, config.label_test)
    n_times = max(r.signal.shape[1] for r in recordings)
    whole, causal = label_plans(config, data, subjects, n_times)
    plans = [*whole, *causal]
    progress = Progress(len(plans) * config.label_epochs, unit="labelling epoch")
    measured = config.memory and device.type == "cpu"
    memory = inference_megabytes(plans) if measured else [math.nan] * len(plans)
    labelled: list[Labelled] = []
    streamed: list[Streamed] = []
    for plan, megabytes in zip(plans, memory, strict=True):
        network, row = label_recordings(
            plan, train, test=test, seed=config.seed, device=device, note=lambda note: progress.advance(note=note)
        )
        labelled.append(replace(row, megabytes=megabytes))
        metrics = {
            "label_balanced_accuracy": row.balanced[0],
            "label_within_tasks": row.within_tasks,
            "label_seconds": row.seconds,
            "label_megabytes": megabytes,
        }
        name = f"{plan.mechanism}_causal" if plan.causal else plan.mechanism
        kept = {f"{name}_{key}": value for key, value in metrics.items() if math.isfinite(value)}
        run.log_metrics(kept, step=plan.n_tokens)
        if plan.causal:
            streamed.append(stream(run, config, plan, network=network, recording=test[0], scale=scale_of(train)))
    progress.close()
    return labelled, streamed


def stream(
    run: AnyRun,
    config: EfficientAttentionConfig,
    plan: LabelSizes,
    *,
    network: RecordingTransformer,
    recording: Recording,
    scale: np.ndarray,
) -> Streamed:
    """Label a recording with a causal network as it comes in, and log what that took."""
    found = stream_recording(plan, network, recording, scale, seconds=config.stream_seconds, piece=config.stream_piece)
    measures = {"stream_difference": found.difference, "stream_milliseconds": found.milliseconds_last}
    run.log_metrics({f"{plan.mechanism}_{key}": value for key, value in measures.items()}, step=0)
    return found


def fresh_network(config: EfficientAttentionConfig, data: EegData, name: str) -> nn.Module:
    """The network with the mechanism `name`, or EEGNet, with weights drawn from the seed."""
    with seeded(config.seed):
        if name == "eegnet":
            return build_eegnet(data, config.window)
        return build_with_attention(config, data.trials.shape[1], name, len(data.classes))


def fit_folds(
    fitting: Fitting, config: EfficientAttentionConfig, data: EegData, folds: Sequence[Fold], *, name: str
) -> list[dict[str, Any]]:
    """The finished fit of the network called `name` on each fold."""
    return [
        fitting.fit(f"{name}_fold{number}", fresh_network(config, data, name), fold, fitting.windows.label)
        for number, fold in enumerate(folds, 1)
    ]


def run_efficient_attention(config: EfficientAttentionConfig, trial: StudyTrial | None = None) -> int:
    """Train with every mechanism, measure, record, register the exact one; the exit status.

    trial: the run's place in a study, where the first of `mechanisms` stands in the exact one's stead.
    """
    own = config.mechanisms[0] if trial else EXACT
    session = Session("efficient_attention", config, trial, advice=ADVICE)
    data, windows, folds = load_for(session, config)
    check_recordings(config, data)
    dealt = shuffled_labels(windows, config.seed)
    final_key, served = final_fit(config, own, windows, folds)
    names = [name for name in dict.fromkeys((own, EXACT, *config.mechanisms)) if name != SAME or name == own]
    names += ["eegnet"] if config.baselines else []

    with session:
        run, began = session.run, time.monotonic()
        log_recordings(session, config, data=data, windows=windows, folds=folds)
        n_fits = 1 if session.trial.searching else len(names) * len(folds) + config.leakage_check + 1
        with Progress(n_fits * config.epochs, unit="epoch", quiet=not session.is_first) as progress:
            fitting = Fitting(session, progress, config, windows)
            if session.trial.searching:  # judged on validation windows; no test window is looked at
                untested = replace(folds[0], test=np.array([], dtype=int))
                fitting.fit(f"{own}_fold1", fresh_network(config, data, own), untested, windows.label)
                return 0
            fits = {name: fit_folds(fitting, config, data, folds, name=name) for name in names}
            shuffled = None
            if config.leakage_check:
                shuffled = fitting.fit("leakage", fresh_network(config, data, own), folds[0], dealt)
            final = fitting.fit(final_key, fresh_network(config, data, own), served, windows.label)
        session.end_training()
        if not session.is_first:
            return 0
        run.log_checkpoint()

        results = network_results(fits, windows, folds)
        if config.baselines:
            results |= classical_results(config, data, windows, folds)
        leakage = check_leakage(shuffled, windows, folds[0], dealt)
        log_results(run, data, results, leakage, step=config.epochs)
        log_figures(run, config, data, own=own, results=results, curves=curves_by_fold(fits[own]))
        exact = fresh_network(config, data, EXACT)
        exact.load_state_dict(fits[EXACT][-1]["weights"])
        found = record_scaling(
            run, config, windows=windows, fold=folds[-1], exact=exact, results=results, device=session.device
        )
        tasks = record_tasks(run, config, data, session.device)

        if leakage is None or not leakage.leaks:  # else the network is not to be served
            network = fresh_network(config, data, own)
            network.load_state_dict(final["weights"])
            own_config, metrics = transformer_config(config, own), results[own].metrics(own)
            register_transformer(
                run, own_config, data=data, network=network.eval(), metrics=metrics, own=own, alias=session.trial.alias
            )
        common = results_text(config, data, own=own, results=results, leakage=leakage)
        text = render_summary(Path(__file__).parent, results=common, conclusion=found, tasks=tasks)
        end_with_summary(session, text, leakage, seconds=time.monotonic() - began)
    return session.status


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EfficientAttentionConfig, presets_for(PRESETS, argv), argv, "efficient_attention")
    status = launch_processes(config.nproc, "trainers.efficient_attention", argv, config.max_restarts)
    return run_efficient_attention(config) if status is None else status
