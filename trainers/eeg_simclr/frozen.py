"""What stays of a network whose encoder is frozen: features computed once, a linear probe of them, windows made of
them.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from data.eeg.windows import Windows
from models.eeg.simclr import ChannelClassifier, LinearProbe
from training.eeg.config import EegConfig
from training.eeg.fit import autocast

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
    probe; returns its log-probabilities [len(asked), 2] of the rows `asked`.
    """
    assert isinstance(network, LinearProbe)
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    model.fit(scaler.transform(features[train]), label[train])
    with torch.no_grad():
        network.mean.copy_(torch.from_numpy(scaler.mean_))
        network.scale.copy_(torch.from_numpy(scaler.scale_))
        half = torch.from_numpy(model.coef_[0] / 2)  # softmax of (-s / 2, s / 2) is the sigmoid of s
        network.linear.weight.copy_(torch.stack([-half, half]))
        bias = float(model.intercept_[0]) / 2
        network.linear.bias.copy_(torch.tensor([-bias, bias]))
        return network.classify(torch.from_numpy(features[asked]).to(network.mean.device)).double().cpu()
