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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import nn

from common.errors import InputError
from common.progress import Progress
from data.eeg.labelling import whole_recordings
from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from models.attention.spec import build_attention
from models.eeg.transformer import EegTransformer
from models.transformer import EncoderLayer
from tracking.registry.models import ModelInfo
from tracking.run import Run
from tracking.silent_run import SilentRun
from trainers.eeg_transformer.config import attention_spec, build_with_attention
from trainers.eeg_transformer.run import register
from trainers.efficient_attention.conclusion import conclusion, draw, labelling_figure
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
from training.eeg.folds import Outcome, run_eeg
from training.trial import StudyTrial


def labelled_subjects(config: EfficientAttentionConfig, data: EegData) -> list[int]:
    """The subjects whose whole recordings are labelled."""
    return list(dict.fromkeys(report.subject for report in data.recordings))[: config.label_subjects]


def check_recordings(config: EfficientAttentionConfig, data: EegData) -> None:
    """InputError for labelling or streaming in longer parts than the recordings have; they come last, after all
    folds.
    """
    if not config.label_patches:
        return
    subjects = labelled_subjects(config, data)
    shortest = round(min(r.seconds for r in data.recordings if r.subject in subjects) * data.sfreq)
    trained_on = shortest - latest_start(data.sfreq)
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
            mechanism = build_attention(spec, q.shape[-1], torch.Generator().manual_seed(config.seed)).eval()
        errors[name] = float((mechanism(q, k, v) - exact).norm() / exact.norm())
    return errors


def record_scaling(
    run: Run | SilentRun,
    config: EfficientAttentionConfig,
    data: EegData,
    windows: Windows,
    outcome: Outcome,
    device: torch.device,
) -> str:
    """Measure over lengths, log curves, figures and tables; returns the conclusion."""
    names = (EXACT, *(m for m in config.mechanisms if m != EXACT))
    exact = outcome.last_networks[EXACT]
    assert isinstance(exact, EegTransformer)
    errors = exchange_errors(exact, config, windows, outcome.last_fold)
    progress = Progress(len(names) * len(config.lengths) * (config.rounds + 1), unit="timing")
    seconds = measure_times(names, config.lengths, config.rounds, device, lambda note: progress.advance(note=note))
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
    run.log_figure(draw(seconds, "seconds", f"Encoder layer, one sequence ({where})"), "figures/seconds.png")
    if any(value > 0 for points in memory.values() for value in points.values()):
        run.log_figure(draw(memory, "megabytes", "Growth of peak memory in one pass"), "figures/memory.png")
    rows = [
        {
            "mechanism": name,
            "tokens": length,
            "seconds": value,
            "tokens_per_second": length / value,
            "megabytes": memory.get(name, {}).get(length),
            "backend": backend(name, length, N_HEADS, D_MODEL // N_HEADS, device),
            "allocator": allocator(),
            "device": where,
        }
        for name, points in seconds.items()
        for length, value in points.items()
    ]
    run.log_dict({"rows": rows, "exchange_error": errors}, "scaling.json")
    text = conclusion(outcome.results, seconds, memory, errors, exact.n_tokens(config.window), where)
    return text + record_tasks(run, config, data, names, device)


def record_tasks(
    run: Run | SilentRun, config: EfficientAttentionConfig, data: EegData, names: Sequence[str], device: torch.device
) -> str:
    """Associative recall, labelling of whole recordings, and one of them as it comes in; returns their report."""
    recall: dict[str, dict[int, float]] = {name: {} for name in names if name != SAME} if config.recall_pairs else {}
    progress = Progress(len(recall) * len(config.recall_pairs), unit="recall task")
    for name in recall:
        for n_pairs in config.recall_pairs:
            accuracy = recall_accuracy(name, RecallSizes(n_pairs, config.recall_steps), config.seed, device)
            recall[name][2 * n_pairs] = accuracy
            run.log_metrics({f"{name}_recall_accuracy": accuracy}, step=2 * n_pairs)
            progress.advance(note=f"{name}, {2 * n_pairs} tokens: {accuracy:.3f}")
    progress.close()
    labelled, streamed = label_and_stream(run, config, data, device) if config.label_patches else ([], None)
    run.log_dict(
        {
            "recall": recall,
            "labelled": [asdict(row) for row in labelled],
            "streamed": asdict(streamed) if streamed else None,
        },
        "tasks.json",
    )
    if recall:
        run.log_figure(draw(recall, "share of right answers", "Associative recall", share=True), "figures/recall.png")
    if labelled:
        run.log_figure(labelling_figure(labelled, config.dataset), "figures/labelling.png")
    what = "Simulated subjects" if config.dataset == "simulated" else "EEGMMI"
    return tasks_report(recall, labelled, streamed, what, on_gpu=device.type == "cuda")


def label_and_stream(
    run: Run | SilentRun, config: EfficientAttentionConfig, data: EegData, device: torch.device
) -> tuple[list[Labelled], Streamed]:
    """Train on all but each subject's last run, test on that; then a causal network for the recording that does not
    end.
    """
    subjects = labelled_subjects(config, data)
    recordings = whole_recordings(data, subjects)
    if config.align == "euclidean":
        recordings = [whitened(recording) for recording in recordings]
    last = {s: max(r.run for r in recordings if r.subject == s) for s in subjects}
    test = [r for r in recordings if r.run == last[r.subject]]
    train = [r for r in recordings if r.run != last[r.subject]]
    n_times = max(r.signal.shape[1] for r in recordings)
    plans = [
        LabelSizes(name, patch_len, len(data.ch_names), n_times, data.sfreq, config.label_epochs)
        for patch_len in config.label_patches
        for name in config.label_mechanisms
        if name not in (EXACT, *QUADRATIC) or n_times // patch_len <= config.label_exact_tokens
    ]
    causal = LabelSizes(
        "linear", config.stream_patch, len(data.ch_names), n_times, data.sfreq, config.label_epochs, causal=True
    )
    progress = Progress((len(plans) + 1) * config.label_epochs, unit="labelling epoch")
    memory = (
        inference_megabytes([*plans, causal])
        if config.memory and device.type == "cpu"
        else [math.nan] * (len(plans) + 1)
    )
    labelled = []
    for plan, megabytes in zip((*plans, causal), memory, strict=True):
        network, row = label_recordings(
            plan, train, test, config.seed, device, lambda note: progress.advance(note=note)
        )
        labelled.append(replace(row, megabytes=megabytes))
        metrics = {
            "label_balanced_accuracy": row.balanced[0],
            "label_left_right": row.left_right,
            "label_seconds": row.seconds,
            "label_megabytes": megabytes,
        }
        name = f"{plan.mechanism}_causal" if plan.causal else plan.mechanism
        kept = {f"{name}_{key}": value for key, value in metrics.items() if math.isfinite(value)}
        run.log_metrics(kept, step=plan.n_tokens)
    progress.close()
    streamed = stream_recording(
        network, test[0], scale_of(train), data.sfreq, config.stream_seconds, config.stream_piece
    )
    run.log_metrics(
        {"stream_difference": streamed.difference, "stream_milliseconds": streamed.milliseconds_last}, step=0
    )
    return labelled, streamed


def run_efficient_attention(config: EfficientAttentionConfig, study_trial: StudyTrial | None = None) -> int:
    """Train with every mechanism, measure, record, register the exact one; the exit status.

    study_trial: the run's place in a study, where the first of `mechanisms` stands in the exact one's stead.
    """
    own = config.mechanisms[0] if study_trial else EXACT

    def build(data: EegData, name: str) -> nn.Module:
        return build_with_attention(config, data.trials.shape[1], name)

    def register_own(
        run: Run | SilentRun,
        config: EfficientAttentionConfig,
        data: EegData,
        network: nn.Module,
        metrics: Mapping[str, float],
        alias: str | None,
    ) -> ModelInfo:
        return register(run, transformer_config(config, own), data, network, metrics, alias)

    rivals = list(dict.fromkeys(name for name in (EXACT, *config.mechanisms) if name not in (own, SAME)))
    return run_eeg(
        "efficient_attention",
        own,
        config,
        build,
        record_scaling,
        register_own,
        rivals,
        study_trial=study_trial,
        check=check_recordings,
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EfficientAttentionConfig, PRESETS, argv, "efficient_attention")
    status = launch_processes(config.nproc, "trainers.efficient_attention", argv, config.max_restarts)
    return run_efficient_attention(config) if status is None else status
