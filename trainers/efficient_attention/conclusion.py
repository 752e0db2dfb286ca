"""What `efficient_attention` writes and draws from what it measured over the length of the sequence."""

import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from trainers.efficient_attention.scaling import D_MODEL, EXACT, N_HEADS, Seconds, crossover, growth_exponent
from trainers.efficient_attention.tasks import Labelled
from training.eeg.results import Result

CONTROLS = ("none", "fourier")


def conclusion(
    results: Mapping[str, Result],
    seconds: Seconds,
    memory: Mapping[str, Mapping[int, float]],
    errors: Mapping[str, float],
    n_tokens: int,
    device: str,
) -> str:
    """Which to choose when, in Markdown, from the figures alone."""
    starts = {name: crossover(taken, seconds[EXACT]) if name != EXACT else None for name, taken in seconds.items()}
    text = [
        *speed_table(seconds, memory, errors=errors, starts=starts, device=device),
        *time_table(seconds, memory),
        "",
        "## Which to choose",
        "",
        *speed_findings(seconds, starts, n_tokens),
        *accuracy_findings(results, errors),
    ]
    return "\n".join(text) + "\n"


def speed_table(
    seconds: Seconds,
    memory: Mapping[str, Mapping[int, float]],
    errors: Mapping[str, float],
    starts: Mapping[str, float | None],
    device: str,
) -> list[str]:
    """Speed against exact attention over the lengths, from where on a mechanism is faster, and how it grows."""
    lengths = sorted({n for taken in seconds.values() for n in taken})
    text = [
        "",
        "## Over the length of the sequence",
        "",
        f"An encoder layer (d_model {D_MODEL}, {N_HEADS} heads), one sequence, inference, {device}. Speed against "
        "sdpa; above 1 is faster. Faster from: interpolated between measured lengths, linearly in logarithms.",
        "",
        "| mechanism | "
        + " | ".join(f"{n:,}" for n in lengths)
        + " | faster from | time grows like N^ | memory grows like N^ | error when exchanged |",
        "|---|" + "---|" * (len(lengths) + 4),
    ]
    shortest = min(seconds[EXACT])
    for name, taken in seconds.items():
        cells = [f"{seconds[EXACT][n] / taken[n]:.2f}" if n in taken and n in seconds[EXACT] else "" for n in lengths]
        begin = "" if name == EXACT else _from_length(starts[name], shortest)
        grows, holds = growth_exponent(taken), growth_exponent(memory.get(name, {}))
        row = [name, *cells, begin, *("" if math.isnan(e) else f"{e:.2f}" for e in (grows, holds))]
        text.append("| " + " | ".join([*row, f"{errors[name]:.3f}" if name in errors else ""]) + " |")
    return text


def time_table(seconds: Seconds, memory: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Milliseconds over the lengths, throughput and peak memory at the greatest."""
    lengths = sorted({n for taken in seconds.values() for n in taken})
    text = [
        "",
        "The same in milliseconds; throughput at the greatest length measured; growth of peak memory in a fresh "
        "process.",
        "",
        "| mechanism | " + " | ".join(f"{n:,}" for n in lengths) + " | tokens a second | megabytes |",
        "|---|" + "---|" * (len(lengths) + 2),
    ]
    for name, taken in seconds.items():
        cells = [f"{1000 * taken[n]:.3g}" if n in taken else "" for n in lengths]
        held = memory.get(name, {})
        most = f"{held[max(held)]:.0f} at {max(held):,}" if held else ""
        text.append("| " + " | ".join([name, *cells, f"{max(taken) / taken[max(taken)]:,.0f}", most]) + " |")
    return text


def speed_findings(seconds: Seconds, starts: Mapping[str, float | None], n_tokens: int) -> list[str]:
    """At which length which approximation pays."""
    shortest, longest = min(seconds[EXACT]), max(seconds[EXACT])
    approximate = [name for name in seconds if name not in (EXACT, "softmax", *CONTROLS)]
    if not approximate:
        return []
    text = [at_tokens(approximate, seconds, n_tokens)]
    factor, quickest = min((seconds[n][shortest] / seconds[EXACT][shortest], n) for n in approximate)
    text.append(
        f"- At {shortest:,} tokens the quickest approximation, {quickest}, takes {factor:.2f} times as long as sdpa."
    )
    paying = sorted((n, name) for name in approximate if (n := starts[name]) is not None)
    if paying:
        begins = ", ".join(f"{name} from {_from_length(n, shortest)}" for n, name in paying)
        text.append(f"- From a length on, cheaper than exact: {begins} tokens.")
    gains = {name: seconds[EXACT][longest] / seconds[name][longest] for _, name in paying if longest in seconds[name]}
    if gains:
        fastest = max(gains, key=lambda name: gains[name])
        text.append(f"- At {longest:,} tokens the fastest is {fastest}, {gains[fastest]:.1f} times sdpa.")
    return text


def accuracy_findings(results: Mapping[str, Result], errors: Mapping[str, float]) -> list[str]:
    """What the mechanisms reach on EEG, trained with and put in afterwards."""
    best = max(results, key=lambda name: results[name].interval[0])
    mean = results[EXACT].interval[0]
    text = [f"- Trained on EEG: sdpa {mean:.3f} per trial, the highest {best} with {results[best].interval[0]:.3f}."]
    if "none" in results:
        text.append(
            f"- Without any mixing of tokens (none): {results['none'].interval[0]:.3f}. Where that is as good, the "
            "task does not need attention."
        )
    usable = [name for name, error in errors.items() if error < 0.05 and name != "softmax"]
    stays = (
        f"only {', '.join(usable)} {'stay' if len(usable) > 1 else 'stays'} within"
        if usable
        else "no mechanism stays within"
    )
    text.append(
        f"- Put into the trained network without training again, {stays} 5 % of exact attention. Train with the "
        "mechanism that will be used."
    )
    return text


def at_tokens(approximate: Sequence[str], seconds: Seconds, n_tokens: int) -> str:
    """Which approximations are faster than exact attention at the measured length next to `n_tokens`, those of an EEG
    window.
    """
    exact = seconds[EXACT]
    near = min(exact, key=lambda n: abs(math.log(n / n_tokens)))
    if max(near / n_tokens, n_tokens / near) > 2:
        return f"- At the {n_tokens} tokens of an EEG window nothing was measured: the nearest length is {near:,}."
    where = (
        "those of an EEG window"
        if near == n_tokens
        else f"the measured length nearest to the {n_tokens} of an EEG window"
    )
    gains = {n: exact[near] / seconds[n][near] for n in approximate if near in seconds[n]}
    faster = [f"{n} ({gains[n]:.2f} times)" for n in sorted(gains, key=lambda n: -gains[n]) if gains[n] > 1]
    layer = f"a layer of d_model {D_MODEL} with {N_HEADS} heads"
    if not faster:
        return (
            f"- At {near} tokens, {where}, no approximation is faster than exact attention in {layer}, "
            "and that is exact."
        )
    return f"- At {near} tokens, {where}, faster than exact attention in {layer}: {', '.join(faster)}."


def _from_length(n: float | None, shortest: int) -> str:
    return "never" if n is None else f"{shortest:,} or fewer" if n == shortest else f"{n:,.0f}"


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


def plot_labelling(labelled: Sequence[Labelled], dataset: str) -> Figure:
    """Balanced accuracy, time and memory against the number of tokens that the same recording is cut into."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels: list[tuple[str, Callable[[Labelled], float]]] = [
        ("balanced accuracy (chance 0.333)", lambda row: row.balanced[0]),
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
        axis.set_xlabel("tokens of a two-minute recording")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if label.startswith("balanced"):
            axis.axhline(1 / 3, color="grey", linestyle=":", linewidth=0.8)
            axis.legend(frameon=False, fontsize=8)
        else:
            axis.set_yscale("log")
    figure.suptitle(f"{dataset}: rest, left or right at every sample of whole recordings", fontsize=10)
    return figure
