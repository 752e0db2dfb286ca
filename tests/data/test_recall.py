"""Recall sequences: the answers are those that the sequence tells, and nothing else tells them."""

import pytest
import torch

from data.recall import recall_sequences


def test_answers_are_what_was_told() -> None:
    keys, values, answers = recall_sequences(50, 9, 4, torch.Generator().manual_seed(0))
    for k, v, a in zip(keys.tolist(), values.tolist(), answers.tolist(), strict=True):
        assert sorted(k[:9]) == sorted(k[9:]) == list(range(9))
        assert set(v[9:]) == {4}
        told = dict(zip(k[:9], v[:9], strict=True))
        assert a == [told[key] for key in k[9:]]


def test_each_sequence_has_some_of_the_keys() -> None:
    keys, values, answers = recall_sequences(200, 4, 5, torch.Generator().manual_seed(0), n_keys=9)
    assert set(keys.flatten().tolist()) == set(range(9))
    for k, v, a in zip(keys.tolist(), values.tolist(), answers.tolist(), strict=True):
        assert len(set(k[:4])) == 4
        assert sorted(k[:4]) == sorted(k[4:])
        told = dict(zip(k[:4], v[:4], strict=True))
        assert a == [told[key] for key in k[4:]]


def test_neither_key_nor_place_tells_the_answer() -> None:
    keys, _, answers = recall_sequences(4000, 3, 2, torch.Generator().manual_seed(0))
    for place in range(3):
        for key in range(3):
            share = answers[keys[:, 3 + place] == key, place].float().mean()
            assert abs(share - 0.5) < 4 * 0.5 / (4000 / 3) ** 0.5


def test_the_same_seed_gives_the_same_and_bad_sizes_are_refused() -> None:
    first, again = (recall_sequences(2, 5, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(ValueError, match="n_values=1"):
        recall_sequences(2, 5, 1, torch.Generator())
    with pytest.raises(ValueError, match="n_keys=4"):
        recall_sequences(2, 5, 3, torch.Generator(), n_keys=4)
