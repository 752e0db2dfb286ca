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
    """keys [B, N] in 0 ... n_pairs - 1; values [B, N] in 0 ... n_values - 1, or n_values where one is asked for;
    answers [B, N / 2] of the second half."""

    keys: Tensor
    values: Tensor
    answers: Tensor


def recall_sequences(batch: int, n_pairs: int, n_values: int, generator: torch.Generator) -> Recall:
    """`batch` sequences of N = 2 n_pairs tokens."""
    if batch < 1 or n_pairs < 1 or n_values < 2:
        raise ValueError(f"batch={batch}, n_pairs={n_pairs}, n_values={n_values}: at least 1, 1 and 2")
    storing_order, query_order = (torch.rand(batch, n_pairs, generator=generator).argsort(1) for _ in range(2))
    value_of_key = torch.randint(n_values, (batch, n_pairs), generator=generator)
    unknown = torch.full_like(query_order, n_values)
    return Recall(
        torch.cat((storing_order, query_order), 1),
        torch.cat((value_of_key.gather(1, storing_order), unknown), 1),
        value_of_key.gather(1, query_order),
    )
