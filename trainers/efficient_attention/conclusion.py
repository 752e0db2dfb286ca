"""What `efficient_attention` writes and draws from what it measured over the length of the sequence."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trainers.efficient_attention.scaling import D_MODEL, EXACT, N_HEADS, Seconds, crossover, growth_exponent
from trainers.efficient_attention.tasks import Labelled
from training.eeg.results import Result
from training.summary import render_text

CONTROLS = ("none", "fourier")


def conclusion(
    results: Mapping[str, Result],
    seconds: Seconds,
    memory: Mapping[str, Mapping[int, float]],
    errors: Mapping[str, float],
    n_tokens: int,
    device: str,
) -> str:
    """Which to choose when, in Markdown, from the figures alone: the template conclusion.md.j2."""
    best = max(results, key=lambda name: results[name].interval[0])
    return render_text(
        Path(__file__).parent / "conclusion.md.j2",
        d_model=D_MODEL,
        n_heads=N_HEADS,
        device=device,
        lengths=sorted({n for taken in seconds.values() for n in taken}),
        speed=speed_rows(seconds, memory, errors),
        time=time_rows(seconds, memory),
        findings=speed_findings(seconds, n_tokens),
        exact=results[EXACT].interval[0],
        best=best,
        best_accuracy=results[best].interval[0],
        no_mixing=results["none"].interval[0] if "none" in results else None,
        usable=[name for name, error in errors.items() if error < 0.05 and name != "softmax"],
    )


def speed_rows(
    seconds: Seconds, memory: Mapping[str, Mapping[int, float]], errors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Of each mechanism: speed against exact attention over the lengths, the length from which it is faster (None:
    never; exact attention has none), how time and memory grow, the error when it is exchanged. NaN: not measured.
    """
    lengths, exact = sorted({n for taken in seconds.values() for n in taken}), seconds[EXACT]
    return [
        {
            "name": name,
            "speeds": [exact[n] / taken[n] if n in taken and n in exact else None for n in lengths],
            "is_exact": name == EXACT,
            "faster_from": None if name == EXACT else crossover(taken, exact),
            "shortest": min(exact),
            "time_exponent": growth_exponent(taken),
            "memory_exponent": growth_exponent(memory.get(name, {})),
            "error": errors.get(name),
        }
        for name, taken in seconds.items()
    ]


def time_rows(seconds: Seconds, memory: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """Of each mechanism: milliseconds over the lengths, throughput and peak memory at its greatest length."""
    lengths = sorted({n for taken in seconds.values() for n in taken})
    return [
        {
            "name": name,
            "milliseconds": [1000 * taken[n] if n in taken else None for n in lengths],
            "tokens_per_second": max(taken) / taken[max(taken)],
            "memory_at": max(held) if (held := memory.get(name, {})) else None,
            "megabytes": held[max(held)] if held else None,
        }
        for name, taken in seconds.items()
    ]


def speed_findings(seconds: Seconds, n_tokens: int) -> dict[str, Any] | None:
    """At which length which approximation pays; None where none was measured.

    near: the measured length nearest to the `n_tokens` of an EEG window, None where all are more than twice as far.
    faster: [(approximation, its speed against exact attention there)], fastest first. paying: [(length from which,
    approximation)].
    """
    exact = seconds[EXACT]
    shortest, longest = min(exact), max(exact)
    approximate = [name for name in seconds if name not in (EXACT, "softmax", *CONTROLS)]
    if not approximate:
        return None
    nearest = min(exact, key=lambda n: abs(math.log(n / n_tokens)))
    gains = {n: exact[nearest] / seconds[n][nearest] for n in approximate if nearest in seconds[n]}
    factor, quickest = min((seconds[n][shortest] / exact[shortest], n) for n in approximate)
    paying = sorted((n, name) for name in approximate if (n := crossover(seconds[name], exact)) is not None)
    at_longest = {name: exact[longest] / seconds[name][longest] for _, name in paying if longest in seconds[name]}
    fastest = max(at_longest, key=lambda name: at_longest[name]) if at_longest else None
    return {
        "n_tokens": n_tokens,
        "nearest": nearest,
        "is_near": max(nearest / n_tokens, n_tokens / nearest) <= 2,
        "faster": [(n, gains[n]) for n in sorted(gains, key=lambda n: -gains[n]) if gains[n] > 1],
        "shortest": shortest,
        "quickest": quickest,
        "factor": factor,
        "paying": paying,
        "longest": longest,
        "fastest": fastest,
        "gain": at_longest[fastest] if fastest else None,
    }


def plot_over_length(
    values: Mapping[str, Mapping[int, float]], y_label: str, title: str, share: bool = False
) -> Figure:
    """Lines over the length of the sequence, both axes logarithmic (the second from 0 to 1 for a `share`); sdpa in
    black.
    """
    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    axis = figure.subplots()
    for name, points in values.items():
        shown = {n: v for n, v in points.items() if v > 0 or share}
        style = {"color": "black", "linewidth": 2.2} if name == EXACT else {"linewidth": 1.1}
        axis.plot(sorted(shown), [shown[n] for n in sorted(shown)], marker=".", label=name, **style)
    axis.set_xscale("log")
    if share:
        axis.set_ylim(-0.03, 1.03)
        tokens = sorted({n for points in values.values() for n in points})
        axis.set_xticks(tokens, [f"{n:,}" for n in tokens])
        axis.minorticks_off()
    else:
        axis.set_yscale("log")
    axis.set_xlabel("tokens")
    axis.set_ylabel(y_label)
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=7, ncols=2)
    return figure


def plot_labelling(labelled: Sequence[Labelled], dataset: str, states: Sequence[str]) -> Figure:
    """Balanced accuracy, time and memory against the number of tokens that the same recording is cut into."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels: list[tuple[str, Callable[[Labelled], float]]] = [
        (f"balanced accuracy (chance {1 / len(states):.3f})", lambda row: row.balanced[0]),
        ("seconds a recording", lambda row: row.seconds),
        # No growth has no place on a logarithmic axis.
        ("growth of peak memory, megabytes", lambda row: row.megabytes if row.megabytes > 0 else math.nan),
    ]
    panels = [  # memory is not always measured
        panel for panel in panels if any(math.isfinite(panel[1](row)) for row in labelled)
    ]
    for axis, (label, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in dict.fromkeys(row.mechanism for row in labelled):
            rows = sorted((row for row in labelled if row.mechanism == name), key=lambda row: row.n_tokens)
            style = {"color": "black", "linewidth": 2.2} if name == EXACT else {"linewidth": 1.1}
            axis.plot([row.n_tokens for row in rows], [value(row) for row in rows], marker="o", label=name, **style)
        axis.set_xscale("log")
        tokens = sorted({row.n_tokens for row in labelled})
        axis.set_xticks(tokens, [f"{n:,}" for n in tokens])
        axis.minorticks_off()  # their labels would overlap
        axis.set_xlabel("tokens of a whole recording")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if label.startswith("balanced"):
            axis.axhline(1 / len(states), color="grey", linestyle=":", linewidth=0.8)
            axis.legend(frameon=False, fontsize=8)
        else:
            axis.set_yscale("log")
    figure.suptitle(
        f"{dataset}: {', '.join(states[:-1])} or {states[-1]} at every sample of whole recordings", fontsize=10
    )
    return figure
