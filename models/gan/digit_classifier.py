"""A small classifier of handwritten digits whose last hidden layer serves as features where Inception's weights cannot
be had.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_FEATURES = 64


class DigitClassifier(nn.Module):
    """Images [n, 3, H, W] in [-1, 1] of any size -> logits [n, 10]; `features` gives the 64 numbers before the last
    layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, N_FEATURES)
        self.out = nn.Linear(N_FEATURES, 10)

    def features(self, x: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 64]. tanh keeps them from vanishing altogether on images that are no digits, as ReLU
        would.
        """
        x = F.interpolate(x, (16, 16), mode="bilinear", antialias=True, align_corners=False)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return torch.tanh(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [-1, 1] -> logits [n, 10]."""
        return self.out(self.features(x))


class DigitFeatures(nn.Module):
    """The features of a `DigitClassifier` as a module: [n, 3, H, W] in [-1, 1] -> [n, 64]."""

    def __init__(self, classifier: DigitClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [-1, 1] -> features [n, 64]."""
        return self.classifier.features(x)
