"""EEGNet with its two first convolutions exchanged, which is the same function for a tenth of the time."""

import torch.nn.functional as F
from torch import Tensor, nn


class EegNet(nn.Module):
    """Trials [N, n_chans, n_times] -> logits [N, 2].

    Lawhern et al. 2018 (EEGNet: A Compact Convolutional Network for EEG-based Brain-Computer Interfaces, Journal of
    Neural Engineering 15(5)): n_filters temporal filters, depth spatial filters for each, then a separable
    convolution. Both first maps are linear, with nothing but an affine normalisation between them, so the spatial one
    can come first: the temporal one then works on n_filters * depth signals instead of n_filters * n_chans.

    Args: dropout of the paper for other people's trials is 0.25; kernels in samples.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        *,
        n_filters: int = 8,
        depth: int = 2,
        kernel: int = 41,
        separable_kernel: int = 17,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        width = n_filters * depth
        self.depth, self.dropout = depth, dropout
        self.space = nn.Conv1d(n_chans, width, 1, bias=False)
        self.time = nn.Conv1d(n_filters, n_filters, kernel, groups=n_filters, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.by_channel = nn.Conv1d(width, width, separable_kernel, padding="same", groups=width, bias=False)
        self.across = nn.Conv1d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(width)
        self.head = nn.Linear(width * (n_times // 4 // 8), 2)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.time.weight.repeat_interleave(self.depth, 0)  # a temporal filter for `depth` spatial ones
        h = F.conv1d(self.space(x), shared, padding="same", groups=len(shared))
        h = F.dropout(F.avg_pool1d(F.elu(self.norm(h)), 4), self.dropout, self.training)
        h = F.elu(self.norm2(self.across(self.by_channel(h))))
        return self.head(F.dropout(F.avg_pool1d(h, 8), self.dropout, self.training).flatten(1))
