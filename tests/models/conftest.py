"""Fixtures that the tests of attention share."""

import pytest
import torch


@pytest.fixture
def seeded_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_sample_is_too_small(monkeypatch):
    """Blocks of the linear family take their shorter way from 128 tokens on, however few numbers these hold."""
    monkeypatch.setattr("models.attention.tokens.SAMPLE_NUMBERS", 1)
