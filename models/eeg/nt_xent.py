"""NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, equation 1), as the exercise writes it.

For 2N projections, of which i and j(i) come from the same channel,

    l(i, j) = -log( exp(sim(z_i, z_j) / tau) / sum over k != i of exp(sim(z_i, z_k) / tau) ),

sim the cosine; the loss is the mean of l over all positive pairs in both orders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z_a: Tensor, z_b: Tensor, tau: float = 0.05, group: Tensor | None = None) -> Tensor:
    """The loss of two views z_a, z_b [N, D] whose rows belong together; a scalar, computed in float32 under autocast,
    too.

    group: int [N]; rows of the same group (a trial, whose windows overlap) are no negatives of each other. Other sizes
    than 2-D and equal, N of 1 (there is no negative) and tau of 0 or less are a ValueError. A row whose group is that
    of all others has no
    negatives: its part of the loss is 0.
    """
    if z_a.shape != z_b.shape or z_a.dim() != 2:
        raise ValueError(f"nt_xent: views of shapes {list(z_a.shape)} and {list(z_b.shape)}; both must be [N, D]")
    n = z_a.shape[0]
    if n < 2:
        raise ValueError("nt_xent: 1 pair has no negatives; at least 2 are needed")
    if not tau > 0:
        raise ValueError(f"nt_xent: tau={tau} must be above 0")
    if group is not None and group.shape != (n,):
        raise ValueError(f"nt_xent: group has shape {list(group.shape)}, the views have {n} rows")
    with torch.autocast(z_a.device.type, enabled=False):
        z = torch.cat([z_a, z_b])
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
        # One product for both orders; scaled before it: 2N x D multiplications instead of 2N x 2N.
        logits = (z / tau) @ z.T
        logits.fill_diagonal_(-torch.inf)
        if group is not None:
            groups = group.repeat(2)
            same = groups[:, None] == groups[None, :]
            pair = torch.arange(2 * n, device=z.device)
            same[pair, pair.roll(n)] = False  # the positive stays
            logits = logits.masked_fill(same, -torch.inf)
        positives = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, positives)


def alignment(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean squared distance of the normalised views of a pair (Wang and Isola 2020, arXiv:2005.10242); 0 is perfect."""
    return (F.normalize(z_a, dim=1) - F.normalize(z_b, dim=1)).square().sum(1).mean()


def uniformity(z: Tensor) -> Tensor:
    """log mean exp(-2 |z_i - z_j|^2) over pairs of normalised rows [N, D] (Wang and Isola 2020): 0 collapsed, lower
    more even.
    """
    distances = torch.pdist(F.normalize(z, dim=1))
    return distances.square().mul(-2).exp().mean().log()
