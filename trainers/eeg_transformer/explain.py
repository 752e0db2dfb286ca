"""What the network looks at: attention over time, and the channels it needs."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from data.eeg.figures import plot_scalp_map
from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from models.eeg.transformer import EegTransformer
from tracking.run import Run
from tracking.silent_run import SilentRun
from trainers.eeg_transformer.config import EegTransformerConfig

DISPLAYED = 1024
"""Test windows that the figures of what the network looks at are made from."""


@torch.no_grad()
def attention_by_class(
    network: EegTransformer, windows: Windows, chosen: np.ndarray, device: torch.device
) -> np.ndarray:
    """Mean attention [n_classes (true), n_queries, n_tokens] of class queries (or the token) over the windows of each
    class.
    """
    network.eval()
    maps = torch.cat(
        [
            network.attention_over_time(windows.gather(part).to(device)).cpu()
            for part in np.array_split(chosen, 8)
            if len(part)
        ]
    )
    label = windows.label[chosen]
    return np.stack([maps[torch.from_numpy(label == c)].mean(0).numpy() for c in range(int(windows.label.max()) + 1)])


@torch.no_grad()
def occlusion(network: nn.Module, windows: Windows, chosen: np.ndarray, device: torch.device) -> np.ndarray:
    """How much log-probability of the true class is lost when a channel is set to zero, [n_chans], mean over the
    windows.

    With align=euclidean it is the aligned channel: the symmetric whitening leaves each of them nearest to its own
    electrode.
    """
    network.eval()
    x, y = windows.gather(chosen).to(device), torch.from_numpy(windows.label[chosen]).to(device)

    def log_p(batch: torch.Tensor) -> float:
        return float(network(batch).log_softmax(1).gather(1, y[:, None]).mean())

    whole = log_p(x)
    loss = []
    for channel in range(x.shape[1]):
        occluded = x.clone()
        occluded[:, channel] = 0
        loss.append(whole - log_p(occluded))
    return np.array(loss)


def plot_attention(maps: np.ndarray, config: EegTransformerConfig, data: EegData) -> Figure:
    """A panel for each true class: attention of each class query, or of the class token, against the middle of the
    slice.
    """
    classes = data.classes
    figure = Figure(figsize=(4.5 * len(classes), 3.4), layout="constrained")
    middles = (np.arange(maps.shape[2]) * config.patch_stride + config.patch_len / 2) / data.sfreq
    for axis, true, rows in zip(figure.subplots(1, len(classes), sharey=True), classes, maps, strict=True):
        queries = [f"query {name}" for name in classes] if len(rows) == len(classes) else ["class token"]
        for query, row in zip(queries, rows, strict=True):
            axis.plot(middles, row, marker=".", label=query)
        axis.axhline(1 / maps.shape[2], color="grey", linestyle=":", linewidth=0.8)
        axis.set_title(f"windows of {true}{'' if data.is_own else ' fist'}", fontsize=9)
        axis.set_xlabel("seconds from the start of the window")
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{config.dataset}: what is attended to, last layer (dotted: evenly)", fontsize=10)
    return figure


def record_explanations(
    run: Run | SilentRun,
    config: EegTransformerConfig,
    data: EegData,
    windows: Windows,
    fold: Fold,
    network: nn.Module,
    device: torch.device,
) -> list[str]:
    """Attention over time and a topomap of channel occlusion, of the network trained on `fold` and its test windows.

    A single channel has no map. Returns the channels whose absence costs most, the costliest first.
    """
    chosen = fold.test[np.linspace(0, len(fold.test) - 1, min(DISPLAYED, len(fold.test))).astype(int)]
    exact = config.pool == "decoder" or (config.pool == "cls" and config.attention in ("sdpa", "softmax"))
    if isinstance(network, EegTransformer) and exact:
        maps = attention_by_class(network, windows, chosen, device)
        run.log_figure(plot_attention(maps, config, data), "figures/attention.png")
    loss = occlusion(network, windows, chosen, device)
    title = f"{config.dataset}: log-probability lost without the channel, {fold.name}"
    if len(data.ch_names) > 1:
        run.log_figure(plot_scalp_map(loss, data, title, "nats"), "figures/occlusion.png")
    run.log_dict({name: float(value) for name, value in zip(data.ch_names, loss, strict=True)}, "occlusion.json")
    return [data.ch_names[i] for i in np.argsort(loss)[::-1][:5]]
