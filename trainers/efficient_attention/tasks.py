"""Two tasks on which the length of the sequence matters, and a recording labelled as it comes in: part of
`efficient_attention`.

Recall has a known answer that no token holds alone. Labelling gives every sample of a whole recording a state (rest,
left, right; of recordings of one's own, rest or one of their classes); the same recording is cut into more and more,
shorter and shorter slices.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from data.eeg.labelling import CYCLE_SECONDS, STATES, UNLABELLED, Recording
from data.recall import recall_sequences
from evaluation.classification import mean_interval, paired_interval
from models.attention.spec import AttentionSpec
from models.eeg.sequence_labeller import RecallTransformer, RecordingTransformer
from models.eeg.whitening import mean_covariance, whitening
from trainers.efficient_attention.peak_memory import answer_jobs, grown_memory, measure_apart
from training.eeg.load import SHRINKAGE
from training.summary import render_text

N_VALUES = 8

Note = Callable[[str], None]


# --------------------------------------------------------------------------------------------------------------------
# recall


@dataclass(frozen=True)
class RecallSizes:
    """n_pairs: of keys and values; the sequence has twice as many tokens. batch: sequences of that length in an update;
    of shorter ones as many more.
    """

    n_pairs: int
    steps: int
    batch: int = 16
    d_model: int = 32
    n_heads: int = 2
    n_layers: int = 2
    lr: float = 0.006


def pairs_at(step: int, sizes: RecallSizes) -> int:
    """How many pairs the sequences of an update have: a 32nd, an eighth and half, for a fifth of the updates each, then
    all of them; at least 4.

    At 512 tokens nothing is learnt from whole sequences alone in 400 updates, by exact attention either: at first each
    token looks at all, and the one that matters is hidden among them.
    """
    part = (32, 8, 2, 1)[min(3, 5 * step // sizes.steps)]
    return min(sizes.n_pairs, max(4, sizes.n_pairs // part))


def rate_at(step: int, sizes: RecallSizes) -> float:
    """The learning rate of an update: it rises over 50 updates, and falls to 0 over the last quarter."""
    return sizes.lr * min(1.0, (step + 1) / 50, 4 * (1 - step / sizes.steps))


def recall_accuracy(name: str, sizes: RecallSizes, seed: int, device: torch.device) -> float:
    """Train on fresh sequences, short ones first; the share of right answers in 4,096 or more of full length. A guess
    is right in 1 of N_VALUES.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RecallTransformer(
            sizes.n_pairs,
            N_VALUES,
            d_model=sizes.d_model,
            n_heads=sizes.n_heads,
            n_layers=sizes.n_layers,
            attention=AttentionSpec.for_length(name, 2 * sizes.n_pairs),
            generator=torch.Generator().manual_seed(seed),
        ).to(device)
    # Adam's squares are averaged over about 20 updates, not 1,000: else the large gradients of the short sequences keep
    # the steps small for all of the longer ones.
    optimizer = torch.optim.AdamW(network.parameters(), sizes.lr, betas=(0.9, 0.95), weight_decay=0.01)

    def answers(batch: int, n_pairs: int) -> tuple[Tensor, Tensor]:
        drawn = recall_sequences(batch, n_pairs, N_VALUES, generator, n_keys=sizes.n_pairs)
        keys, values, right = (t.to(device) for t in drawn)
        return network(keys, values)[:, n_pairs:].flatten(0, 1), right.flatten()

    for step in range(sizes.steps):
        optimizer.param_groups[0]["lr"] = rate_at(step, sizes)
        n_pairs = pairs_at(step, sizes)
        logits, right = answers(sizes.batch * sizes.n_pairs // n_pairs, n_pairs)
        optimizer.zero_grad()
        F.cross_entropy(logits, right).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    with torch.no_grad():
        logits, right = answers(max(1, 4096 // sizes.n_pairs), sizes.n_pairs)
    return float((logits.argmax(1) == right).double().mean())


# -----------------------------------------------------------------------------------------------------------------
# labelling


@dataclass(frozen=True)
class LabelSizes:
    """The network that labels recordings, and how it is trained. window: of `local`; None for its usual one.
    cycle_seconds: see `data.eeg.labelling`.
    """

    mechanism: str
    patch_len: int
    n_chans: int
    n_times: int
    sfreq: float
    epochs: int
    causal: bool = False
    d_model: int = 32
    n_heads: int = 2
    n_layers: int = 2
    dropout: float = 0.1
    lr: float = 0.003
    n_states: int = len(STATES)
    cycle_seconds: float = CYCLE_SECONDS
    window: int | None = None

    @property
    def n_tokens(self) -> int:
        return self.n_times // self.patch_len

    def build(self, seed: int) -> RecordingTransformer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return RecordingTransformer(
                self.n_chans,
                self.n_states,
                patch_len=self.patch_len,
                d_model=self.d_model,
                n_heads=self.n_heads,
                n_layers=self.n_layers,
                dropout=self.dropout,
                attention=AttentionSpec.for_length(self.mechanism, self.n_tokens, window=self.window),
                causal=self.causal,
                generator=torch.Generator().manual_seed(seed),
            )


@dataclass(frozen=True)
class Labelled:
    """What one mechanism reached at one patch length. Accuracies are means over the test recordings' samples, in [0,
    1].

    accuracy: of all states; balanced: mean over the states (of EEGMMI three: chance 1/3), with its interval over
    subjects; within_tasks: of the class, where there is one (of EEGMMI's two hands: chance 1/2). seconds, megabytes:
    inference on one recording, one CPU thread or the GPU; growth of peak memory in a fresh process. by_subject:
    balanced accuracy of each.
    """

    mechanism: str
    patch_len: int
    n_tokens: int
    accuracy: float
    balanced: tuple[float, float, float]
    within_tasks: float
    training_seconds: float
    seconds: float
    megabytes: float = math.nan
    by_subject: dict[int, float] = field(default_factory=dict)


def whitened(recording: Recording) -> Recording:
    """The recording in microvolts, whitened by its own covariance, without labels: see models/eeg/whitening.py.

    People and runs differ less then. The whole recording is used, as it is for the band-pass.
    """
    signal = 1e6 * torch.from_numpy(recording.signal)
    matrix = whitening(mean_covariance(signal[None]), SHRINKAGE).to(signal.dtype)
    return replace(recording, signal=(matrix @ signal).numpy())


def scale_of(recordings: Sequence[Recording]) -> np.ndarray:
    """1 / standard deviation of each channel over the training recordings, [n_chans, 1]."""
    return (1 / np.sqrt(np.mean([r.signal.var(axis=1) for r in recordings], axis=0)))[:, None].astype(np.float32)


def latest_start(sfreq: float, cycle_seconds: float) -> int:
    """The last sample that training on a recording begins at."""
    return max(0, round(cycle_seconds * sfreq) - 1)


def train_labeller(
    sizes: LabelSizes, train: Sequence[Recording], scale: np.ndarray, seed: int, device: torch.device, note: Note
) -> RecordingTransformer:
    """One recording an update, `epochs` times each. Every time it begins elsewhere in the first cycle of rest and task:
    the protocol's clock is the same in all recordings, and from the position alone a network would know when there is
    rest."""
    network = sizes.build(seed).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), sizes.lr, weight_decay=0.01)
    latest = latest_start(sizes.sfreq, sizes.cycle_seconds)
    train = [recording for recording in train if (recording.label[latest:] >= 0).any()]
    # The states are not equally frequent: rest is half of the time.
    counts = np.sum([np.bincount(r.label[r.label >= 0], minlength=sizes.n_states) for r in train], axis=0)
    weight = torch.tensor(counts.sum() / (sizes.n_states * np.maximum(counts, 1)), dtype=torch.float32, device=device)
    dice = np.random.default_rng(seed)
    total, update = sizes.epochs * len(train), 0
    for epoch in range(sizes.epochs):
        for i in dice.permutation(len(train)):
            first = int(dice.integers(latest + 1))
            x = torch.from_numpy(train[i].signal[None, :, first:] * scale).to(device)
            label = torch.from_numpy(train[i].label[first:]).to(device)
            rate = min(1.0, (update + 1) / (0.1 * total)) * 0.5 * (1 + math.cos(math.pi * update / total))
            optimizer.param_groups[0]["lr"] = sizes.lr * rate
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed * 1_000_003 + update)
                logits = per_sample(network(x)[0], len(label), sizes.patch_len)
            loss = F.cross_entropy(logits, label, weight, ignore_index=UNLABELLED)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            update += 1
        note(f"{sizes.mechanism}, {sizes.n_tokens} tokens, epoch {epoch + 1}: loss {loss.item():.2f}")
    return network.eval()


def per_sample(logits: Tensor, n_times: int, patch_len: int) -> Tensor:
    """Logits of slices [n_tokens, n_classes] -> of samples [n_times, n_classes]; samples after the last slice get its
    own.
    """
    spread = logits.repeat_interleave(patch_len, 0)
    return torch.cat((spread, spread[-1:].expand(n_times - len(spread), -1)))


@torch.no_grad()
def label_scores(
    network: RecordingTransformer, test: Sequence[Recording], scale: np.ndarray, device: torch.device
) -> tuple[float, dict[int, float], float]:
    """(accuracy, balanced accuracy of each subject, accuracy of the class within tasks)."""
    by_subject: dict[int, list[float]] = {}
    right, within = [], []
    for recording in test:
        x = torch.from_numpy(recording.signal[None] * scale).to(device)
        logits = per_sample(network(x)[0], len(recording.label), network.patch_len).cpu().numpy()
        known = recording.label >= 0
        if not known.any():
            continue
        logits, label = logits[known], recording.label[known]
        right.append((logits.argmax(1) == label).mean())
        task = label > 0
        if task.any():
            within.append((logits[task, 1:].argmax(1) + 1 == label[task]).mean())
        by_subject.setdefault(recording.subject, []).append(balanced_accuracy_score(label, logits.argmax(1)))
    balanced = {subject: float(np.mean(values)) for subject, values in by_subject.items()}
    return float(np.mean(right)), balanced, float(np.mean(within))


@torch.inference_mode()
def inference_seconds(network: RecordingTransformer, x: Tensor, rounds: int = 3) -> float:
    """CPU seconds of one thread to label x, the median of `rounds`; on a GPU, seconds on the clock."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clock = time.perf_counter if x.is_cuda else time.process_time
    taken = []
    try:
        for _ in range(rounds + 1):
            began = clock()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append(clock() - began)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken[1:])


def inference_megabytes(plans: Sequence[LabelSizes]) -> list[float]:
    """Growth of the peak memory of a fresh process that labels one recording, for each network; NaN where it failed."""
    found = measure_apart("trainers.efficient_attention.tasks", [asdict(sizes) for sizes in plans])
    return [math.nan if value is None else value for value in found]


def label_recordings(
    sizes: LabelSizes,
    train: Sequence[Recording],
    test: Sequence[Recording],
    seed: int,
    device: torch.device,
    note: Note,
) -> tuple[RecordingTransformer, Labelled]:
    """Train on some recordings, label the others, measure."""
    scale = scale_of(train)
    began = time.monotonic()
    network = train_labeller(sizes, train, scale=scale, seed=seed, device=device, note=note)
    training_seconds = time.monotonic() - began
    accuracy, by_subject, within = label_scores(network, test, scale, device)
    return network, Labelled(
        f"{sizes.mechanism}, causal" if sizes.causal else sizes.mechanism,
        sizes.patch_len,
        sizes.n_tokens,
        accuracy=accuracy,
        balanced=mean_interval(list(by_subject.values())),
        within_tasks=within,
        training_seconds=training_seconds,
        seconds=inference_seconds(network, torch.from_numpy(test[0].signal[None] * scale).to(device)),
        by_subject=by_subject,
    )


# -----------------------------------------------------------------------------------------------------------------
# streaming


@dataclass(frozen=True)
class Streamed:
    """A recording labelled as it came in. difference: largest of logits from those of the whole recording at once (of
    as much of it as was compared). milliseconds: CPU time of one thread per piece, median over the first and over the
    last minute.
    state_numbers: what is remembered between pieces."""

    mechanism: str
    seconds: float
    piece: int
    difference: float
    milliseconds_first: float
    milliseconds_last: float
    state_numbers: int
    n_tokens: int


@torch.inference_mode()
def stream_recording(
    sizes: LabelSizes,
    network: RecordingTransformer,
    recording: Recording,
    scale: np.ndarray,
    *,
    seconds: float,
    piece: int,
) -> Streamed:
    """Label `seconds` of signal, the recording over and over, in pieces of `piece` samples; compare the first pass with
    a batch. sizes: of the network.
    """
    network = network.cpu()
    signal = torch.from_numpy(recording.signal[None] * scale)
    n_times, total = signal.shape[2], round(seconds * sizes.sfreq)
    state, taken = network.start(), []
    first_pass: list[Tensor] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, total, piece):
            x = signal[:, :, torch.arange(start, min(start + piece, total)) % n_times]
            began = time.process_time()
            logits, state = network.stream(x, state)
            taken.append(time.process_time() - began)
            if start + piece <= n_times:
                first_pass.append(logits)
    finally:
        torch.set_num_threads(threads)
    found = torch.cat(first_pass, 1)
    expected = network(signal)[:, : found.shape[1]]
    minute = max(1, round(60 * sizes.sfreq / piece))
    return Streamed(
        sizes.mechanism,
        seconds,
        piece,
        difference=float((found - expected).abs().max()),
        milliseconds_first=1000 * statistics.median(taken[:minute]),
        milliseconds_last=1000 * statistics.median(taken[-minute:]),
        state_numbers=state.n_numbers(),
        n_tokens=state.position,
    )


# --------------------------------------------------------------------------------------------------------------------
# report


def tasks_report(
    recall: Mapping[str, Mapping[int, float]],
    labelled: Sequence[Labelled],
    streamed: Sequence[Streamed],
    what: str,
    *,
    states: Sequence[str] = STATES,
    on_gpu: bool = False,
) -> str:
    """What the tasks gave, in Markdown, from the figures alone: the template tasks.md.j2. on_gpu: where labelling was
    timed; streaming is on a CPU always.
    """
    if not (recall or labelled or streamed):
        return ""
    return render_text(
        Path(__file__).parent / "tasks.md.j2",
        what=what,
        states=states,
        classes="hand" if tuple(states) == STATES else "class",
        on_gpu=on_gpu,
        guess=1 / N_VALUES,
        recall=recall,
        solved=[name for name, row in recall.items() if row[max(row)] > 0.95],
        labelled=labelled,
        has_memory=any(math.isfinite(row.megabytes) for row in labelled),
        best=max(labelled, key=lambda row: row.balanced[0]) if labelled else None,
        slices=by_slice_length(labelled),
        context=gains_of_context(labelled),
        streamed=streamed,
        isfinite=math.isfinite,
    )


def by_slice_length(labelled: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """Of each mechanism that labelled slices of several lengths: its rows, from long slices to short ones."""
    names = dict.fromkeys(row.mechanism for row in labelled)
    rows = {name: sorted((r for r in labelled if r.mechanism == name), key=lambda r: r.n_tokens) for name in names}
    return {name: of_name for name, of_name in rows.items() if len(of_name) > 1}


def gains_of_context(labelled: Sequence[Labelled]) -> dict[int, dict[str, tuple[float, float, float]]]:
    """{number of tokens: {mechanism: its balanced accuracy less that without mixing, (mean, low, high) of differences
    paired by subject}}, where both were measured."""
    alone = {row.n_tokens: row.by_subject for row in labelled if row.mechanism == "none"}
    gains = {
        n: {
            r.mechanism: paired_interval(r.by_subject, base)
            for r in labelled
            if r.n_tokens == n and r.mechanism != "none"
        }
        for n, base in sorted(alone.items())
    }
    return {n: of_length for n, of_length in gains.items() if of_length}


@torch.inference_mode()
def _megabytes_of_network(job: Mapping[str, Any]) -> float:
    sizes = LabelSizes(**job)
    network = sizes.build(0).eval()
    x = torch.randn(1, sizes.n_chans, sizes.n_times)
    network(x[:, :, : min(sizes.n_times, 128 * sizes.patch_len)])  # libraries allocate on first use
    with grown_memory() as megabytes:
        network(x)
    return megabytes[0]


if __name__ == "__main__":
    answer_jobs(_megabytes_of_network)
