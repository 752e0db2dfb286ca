"""Networks that the Transformer is judged beside, all on one second of aligned signals and trained in one way.

EEGNet is always at hand. The others are braindecode's and need its package: `pip install -e ".[braindecode]"`.
Their kernels keep the durations of their papers at the 80 Hz that is left here (theirs are for 250 Hz); ATCNet pools
less, so that it has its 20 steps of one second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from data.eeg.load import EegData
from models.eeg.eegnet import EegNet
from models.eeg.whitening import whitening
from training.eeg.baselines import EARLY_SECONDS, inside
from training.eeg.fit import warm_cosine
from training.eeg.slices import ALIGN_SHRINKAGE, decimation

BATCH = 64
SECONDS_80_HZ = {"filter_time_length": 8, "pool_time_length": 24, "pool_time_stride": 5}
"""0.1, 0.3 and 0.06 s, as in Schirrmeister et al. 2017 and Song et al. 2023."""


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is built, from (n_chans, n_times), and AdamW's settings for it."""

    build: Callable[[int, int], nn.Module]
    lr: float = 0.002
    weight_decay: float = 0.01


def build_shallow(n_chans: int, n_times: int) -> nn.Module:
    """ShallowFBCSPNet (Schirrmeister et al. 2017)."""
    from braindecode.models import ShallowFBCSPNet

    return ShallowFBCSPNet(n_chans, 2, n_times, **SECONDS_80_HZ)


def build_conformer(n_chans: int, n_times: int) -> nn.Module:
    """EEGConformer (Song et al. 2023)."""
    from braindecode.models import EEGConformer

    return EEGConformer(2, n_chans, n_times=n_times, **SECONDS_80_HZ)


def build_atcnet(n_chans: int, n_times: int) -> nn.Module:
    """ATCNet (Altaheri et al. 2022)."""
    from braindecode.models import ATCNet

    return ATCNet(
        n_chans,
        2,
        n_times=n_times,
        sfreq=80.0,
        conv_block_kernel_length_1=20,
        conv_block_kernel_length_2=8,
        conv_block_pool_size_1=2,
        conv_block_pool_size_2=2,
    )


NETWORKS = {
    "eegnet": NetworkSettings(EegNet),
    "shallow": NetworkSettings(build_shallow),
    "conformer": NetworkSettings(build_conformer, lr=0.0005),
    "atcnet": NetworkSettings(build_atcnet),
}


def check_braindecode(names: Sequence[str]) -> None:
    """InputError where a network is asked for whose package is not installed."""
    asked = [name for name in names if name != "eegnet"]
    if not asked:
        return
    try:
        import braindecode.models  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"deep_baselines={','.join(asked)}: they are braindecode's, which cannot be imported ({error}); "
            'pip install -e ".[braindecode]", or leave them out'
        ) from error


def aligned_signals(data: EegData, group: np.ndarray) -> Tensor:
    """EARLY_SECONDS of the trials, decimated and whitened by the covariance of their group's whole trials.

    float32 [n_trials, n_chans, n_times].
    """
    step = decimation(data.sfreq, data.preprocessing.h_freq)
    start, stop = inside(data, EARLY_SECONDS)
    times = data.times[::step]
    chosen = np.flatnonzero((times >= start - 1e-9) & (times <= stop + 1e-9))
    signals = torch.empty(len(data.trials), data.trials.shape[1], len(chosen))
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        x = 1e6 * torch.from_numpy(np.array(data.trials[rows[0] : rows[-1] + 1, :, ::step]))[rows - rows[0]]
        covariance = torch.einsum("nct,ndt->cd", x, x).double() / (x.shape[0] * x.shape[2])
        signals[torch.from_numpy(rows)] = whitening(covariance, ALIGN_SHRINKAGE).float() @ x[..., chosen]
    return signals


def fit_network(name: str, x: Tensor, label: np.ndarray, mirror: Tensor, *, n_updates: int, seed: int) -> nn.Module:
    """The network called `name`, trained on trials [n, n_chans, n_times] for a fixed number of updates, each trial
    mirrored by a coin.
    """
    settings = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng, y = np.random.default_rng(seed), torch.from_numpy(label)
        network = settings.build(x.shape[1], x.shape[2]).train()
        optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)
        for update in range(n_updates):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * warm_cosine((update + 1) / n_updates, 0.3)
            rows = torch.from_numpy(rng.choice(len(x), min(BATCH, len(x)), replace=False))
            swap = torch.from_numpy(rng.random(len(rows)) < 0.5)
            batch = torch.where(swap[:, None, None], x[rows][:, mirror], x[rows])
            target = torch.where(swap, 1 - y[rows], y[rows])
            loss = F.cross_entropy(network(batch), target, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def predict_network(network: nn.Module, x: Tensor, mirror: Tensor, batch: int = 256) -> Tensor:
    """Log-probabilities [n, 2]: the logits of a trial, and those of its mirror image with the classes swapped."""
    logits = torch.cat([network(part) + network(part[:, mirror]).flip(1) for part in x.split(batch)])
    return (logits / 2).log_softmax(1).double()
