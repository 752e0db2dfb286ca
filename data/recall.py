"""Associative recall: sequences whose right answer cannot be found without mixing tokens.

The first half of a sequence states the value of each key, once, in random order. The second half asks for each of
them, in another order. The values are drawn anew for each sequence, so nothing can be learned by heart: a model that
does not mix tokens guesses one of `n_values`. Cf. Ba et al. 2016 (arXiv:1610.06258), section 4.1; Arora et al. 2023
(arXiv:2312.04927).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Recall(NamedTuple):
    """keys [B, N] in 0 ... n_keys - 1; values [B, N] in 0 ... n_values - 1, or n_values where one is asked for;
    answers [B, N / 2] of the second half."""

    keys: Tensor
    values: Tensor
    answers: Tensor


def recall_sequences(
    batch: int, n_pairs: int, n_values: int, generator: torch.Generator, n_keys: int | None = None
) -> Recall:
    """`batch` sequences of N = 2 n_pairs tokens. n_keys: keys there are, of which each sequence has n_pairs; not given:
    as many.
    """
    n_keys = n_pairs if n_keys is None else n_keys
    if batch < 1 or n_pairs < 1 or n_values < 2 or n_keys < n_pairs:
        raise ValueError(
            f"batch={batch}, n_pairs={n_pairs}, n_values={n_values}, n_keys={n_keys}: at least 1, 1, 2 and {n_pairs}"
        )
    keys = torch.rand(batch, n_keys, generator=generator).argsort(1)[:, :n_pairs]
    values = torch.randint(n_values, (batch, n_pairs), generator=generator)
    asked = torch.rand(batch, n_pairs, generator=generator).argsort(1)  # places in the first half
    return Recall(
        torch.cat((keys, keys.gather(1, asked)), 1),
        torch.cat((values, torch.full_like(values, n_values)), 1),
        values.gather(1, asked),
    )
