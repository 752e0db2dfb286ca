"""The delta rule, gated or not, and the state space beside flash-linear-attention's own references, in float64."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from models.attention import delta
from tests.models.attention.attention_cases import assert_equal_with_gradients, build, qkv

FLA = importlib.util.find_spec("fla")
pytestmark = [
    pytest.mark.skipif(FLA is None, reason="flash-linear-attention is not installed (pip install fla-core)"),
    pytest.mark.usefixtures("seeded_float64"),
]
Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def references(rule: str) -> ModuleType:
    """fla/ops/RULE/naive.py, in float64 where it says float32. By its path: `import fla.ops` needs a GPU's compiler."""
    assert FLA is not None
    assert FLA.submodule_search_locations
    path = Path(FLA.submodule_search_locations[0]) / "ops" / rule / "naive.py"
    source = path.read_text().replace("torch.float32", "torch.float64").replace(".float()", ".double()")
    module = ModuleType(rule)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def chunkwise(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_keep: Tensor | None) -> Tensor:
    """Yang et al. 2024 in chunks of 30: other ones than ours."""
    return references("delta_rule").delta_rule_chunkwise(*(t[:, None] for t in (q, k, v, write)), chunk_size=30)[0][
        :, 0
    ]


def recurrence(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_keep: Tensor | None) -> Tensor:
    return references("delta_rule").delta_rule_recurrence(*(t[:, None] for t in (q, k, v, write)))[0][:, 0]


def gated_chunkwise(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_keep: Tensor | None) -> Tensor:
    rule = references("gated_delta_rule").naive_chunk_gated_delta_rule
    return rule(q[:, :, None], k[:, :, None], v[:, :, None], log_keep[..., None], write[..., None], chunk_size=32)[0][
        :, :, 0
    ]


def gated_recurrence(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_keep: Tensor | None) -> Tensor:
    rule = references("gated_delta_rule").naive_recurrent_gated_delta_rule
    return rule(q[:, :, None], k[:, :, None], v[:, :, None], write[..., None], log_keep[..., None])[0][:, :, 0]


def decayed(q: Tensor, k: Tensor, v: Tensor, write: Tensor, log_keep: Tensor | None) -> Tensor:
    rule = references("simple_gla").naive_recurrent_simple_gla
    return rule(q[:, :, None], k[:, :, None], (write[..., None] * v)[:, :, None], log_keep[..., None])[0][:, :, 0]


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("delta", recurrence),
        ("delta", chunkwise),
        ("gated_delta", gated_recurrence),
        ("gated_delta", gated_chunkwise),
        ("ssd", decayed),
    ],
)
@pytest.mark.parametrize("causal", [True, False])
def test_equals_the_reference_with_its_gradients(name: str, oracle: Oracle, causal: bool) -> None:
    mechanism = build(name)
    assert isinstance(mechanism, delta.Memory)
    inputs = [t.requires_grad_() for t in qkv(150)]
    leaves = [*inputs, *mechanism.parameters()]

    def theirs(*heads: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2).flatten(2) for t in heads)
        gates = mechanism.gate(k, v)
        # They divide queries by the root of their size, as for softmax.
        out = oracle(math.sqrt(mechanism.directions.shape[0]) * mechanism.features(q), mechanism.features(k), v, *gates)
        return out.unflatten(2, (heads[0].shape[1], -1)).transpose(1, 2)

    expected = theirs(*inputs)
    if not causal:
        expected = expected + theirs(*(t.flip(2) for t in inputs)).flip(2)
    out = mechanism(*inputs, causal=causal)
    assert expected.dtype == torch.float64
    assert_equal_with_gradients(out, expected, leaves)
