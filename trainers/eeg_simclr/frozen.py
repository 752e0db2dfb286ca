"""What stays of a network whose encoder is frozen: features computed once, a linear probe of them, windows made of
them.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from data.eeg.windows import Windows
from models.eeg.simclr import ChannelClassifier, LinearProbe
from trainers.eeg_simclr.config import EegSimclrConfig
from trainers.eeg_simclr.networks import Shape, build_network
from training.eeg.config import EegConfig
from training.eeg.fit import autocast, seeded

ENCODED_AT_MOST = 2**31
"""Bytes of a frozen encoder's features that are kept."""

AT_A_TIME = 64
"""Windows that are encoded together."""


class EncodedWindows:
    """`windows` as a frozen encoder's features of all their channels: what `FeatureClassifier` is trained on.

    features: float32 [n_windows, C n_features, steps].
    """

    def __init__(self, windows: Windows, features: Tensor) -> None:
        self.features = features
        self.trial, self.position, self.start = windows.trial, windows.position, windows.start
        self.label, self.subject, self.run = windows.label, windows.subject, windows.run

    def __len__(self) -> int:
        return len(self.features)

    def gather(self, indices: np.ndarray | Tensor) -> Tensor:
        """The features of the windows `indices` [n], on the CPU."""
        return self.features[torch.as_tensor(indices).cpu()]


@torch.no_grad()
def encode_windows(
    network: ChannelClassifier, windows: Windows, config: EegConfig, device: torch.device
) -> EncodedWindows:
    """All windows as the head of `network` is given them."""
    network.eval()
    features = None
    for i in range(0, len(windows), AT_A_TIME):
        x = windows.gather(np.arange(i, min(i + AT_A_TIME, len(windows)))).to(device)
        with autocast(config, device):
            part = network.features(x).float().cpu()
        if features is None:
            features = torch.empty(len(windows), *part.shape[1:])
        features[i : i + len(part)] = part
    assert features is not None
    return EncodedWindows(windows, features)


@torch.no_grad()
def all_features(network: nn.Module, windows: Windows, config: EegConfig, device: torch.device) -> np.ndarray:
    """The probe's pooled features of every window, float32 [n_windows, n]."""
    assert isinstance(network, LinearProbe)
    network.eval()
    parts = []
    for i in range(0, len(windows), AT_A_TIME):
        x = windows.gather(np.arange(i, min(i + AT_A_TIME, len(windows)))).to(device)
        with autocast(config, device):
            parts.append(network.features(x).float().cpu())
    return torch.cat(parts).numpy()


def fit_probe(
    network: nn.Module, features: np.ndarray, label: np.ndarray, train: np.ndarray, asked: np.ndarray
) -> Tensor:
    """Write a logistic regression of the labels of the rows `train` on standardised `features` [n_windows, d] into the
    probe; returns its log-probabilities [len(asked), n_classes] of the rows `asked`.
    """
    assert isinstance(network, LinearProbe)
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    model.fit(scaler.transform(features[train]), label[train])
    with torch.no_grad():
        network.mean.copy_(torch.from_numpy(scaler.mean_))
        network.scale.copy_(torch.from_numpy(scaler.scale_))
        weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        if len(model.classes_) == 2:  # softmax of (-s / 2, s / 2) is the sigmoid of s
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        network.linear.bias.fill_(-1e3)  # of a class without a labelled window
        network.linear.weight.zero_()
        classes = torch.from_numpy(model.classes_)
        network.linear.weight[classes], network.linear.bias[classes] = weight.float(), bias.float()
        return network.classify(torch.from_numpy(features[asked]).to(network.mean.device)).double().cpu()


class FrozenEncoder:
    """A frozen encoder, and its features of all windows: computed when first asked for, since they differ in no epoch.

    weights: of the encoder; None: an untrained one, its weights drawn from the seed.
    """

    def __init__(
        self,
        config: EegSimclrConfig,
        shape: Shape,
        weights: Mapping[str, Tensor] | None,
        windows: Windows,
        device: torch.device,
    ) -> None:
        self.config, self.shape, self.weights, self.windows, self.device = config, shape, weights, windows, device

    def network(self, name: str, encoded: bool = False) -> nn.Module:
        """A network called `name` on this encoder, its head drawn from the seed, on the CPU."""
        with seeded(self.config.seed):
            network = build_network(self.config, self.shape, name, encoded)
        if self.weights is not None:
            network.encoder.load_state_dict(self.weights)  # type: ignore[union-attr]
        return network

    @cached_property
    def pooled(self) -> np.ndarray:
        """The probe's features of every window, float32 [n_windows, n]."""
        return all_features(self.network("probe").to(self.device), self.windows, self.config, self.device)

    @cached_property
    def encoded(self) -> EncodedWindows:
        """All windows as the head on the frozen encoder is given them."""
        network = self.network("frozen").to(self.device)
        assert isinstance(network, ChannelClassifier)
        return encode_windows(network, self.windows, self.config, self.device)

    def may_encode(self) -> bool:
        """Whether `encoded` fits into the memory, and is the same in every epoch: not where windows are augmented."""
        c = self.config
        steps = c.window // max(c.decimate, c.head_pool // 2)
        return not c.augment and 4 * len(self.windows) * self.shape.n_used * c.n_features * steps < ENCODED_AT_MOST


def probe(frozen: FrozenEncoder, label: np.ndarray, train: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """A linear probe: logistic regression (scikit-learn) on the frozen encoder's pooled features of the windows
    `train`. Its "log_p" are those of the windows `asked` (None without any).
    """
    network = frozen.network("probe").to(frozen.device)
    log_p = fit_probe(network, frozen.pooled, label, train=train, asked=asked)
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    return {"log_p": log_p if len(asked) else None, "weights": weights, "curve": []}
