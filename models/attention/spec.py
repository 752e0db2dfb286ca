"""Attention mechanisms behind one call, and how a block chooses one: `attention="linear"`, or
`AttentionSpec("linformer", max_len=800)`.

    name        file        exact  causal  cross  padding  length
    sdpa        exact       yes    yes     yes    yes      any
    softmax     exact       yes    yes     yes    yes      any, memory N^2
    linear      linear      no     yes     yes    yes      any, streams
    cosformer   linear      no     yes     yes    yes      any, streams with a fixed length_scale
    favor       linear      no     yes     yes    yes      any, streams
    delta       delta       no     yes     no     yes      any, streams
    gated_delta delta       no     yes     no     yes      any, streams
    ssd         delta       no     yes     no     yes      any, streams
    linformer   efficient   no     no      yes    yes      up to max_len
    nystrom     efficient   no     no      no     yes      from n_landmarks
    local       efficient   band   yes     no     yes      any
    none        exact       control: no mixing of tokens
    fourier     exact       control: a fixed mixing

The call is described in `models.attention.base`; each class says its reference, idea, cost and limits.
"""

from dataclasses import dataclass

import torch

from models.attention.base import Attention, Masks
from models.attention.delta import DeltaAttention, MemoryState, StateSpace
from models.attention.efficient import Linformer, LocalWindow, Nystrom
from models.attention.exact import AttentionBlock, FourierMixing, NoMixing, attention_weights
from models.attention.linear import (
    CosineFeatures,
    EluFeatures,
    FavorFeatures,
    LinearAttention,
    LinearState,
)

__all__ = [
    "MECHANISMS",
    "Attention",
    "AttentionBlock",
    "AttentionSpec",
    "CosineFeatures",
    "DeltaAttention",
    "EluFeatures",
    "FavorFeatures",
    "FourierMixing",
    "LinearAttention",
    "LinearState",
    "Linformer",
    "LocalWindow",
    "Masks",
    "MemoryState",
    "NoMixing",
    "Nystrom",
    "StateSpace",
    "StreamingState",
    "attention_weights",
    "build_attention",
]

StreamingState = LinearState | MemoryState
"""What a mechanism that streams remembers of a sequence."""

MECHANISMS = (
    "sdpa",
    "softmax",
    "linear",
    "cosformer",
    "favor",
    "delta",
    "gated_delta",
    "ssd",
    "linformer",
    "nystrom",
    "local",
    "none",
    "fourier",
)


@dataclass(frozen=True)
class AttentionSpec:
    """A mechanism and its sizes; each mechanism reads only its own.

    max_len, n_projected: Linformer's longest sequence (needed) and its length after projection.
    n_features: FAVOR+'s random features. n_keys: features of a key of delta, gated_delta and ssd.
    n_landmarks: Nystrom's. window: the local window's keys, odd.
    length_scale: cosFormer's, in tokens; None for the length of each sequence.
    dropout: share of attention weights dropped in training (sdpa, softmax, linformer, local: the others have no
    weights).
    """

    name: str = "sdpa"
    max_len: int | None = None
    n_projected: int = 64
    n_features: int = 64
    n_keys: int = 256
    n_landmarks: int = 64
    window: int = 65
    length_scale: int | None = None
    dropout: float = 0.0

    @classmethod
    def for_length(
        cls,
        name: str,
        n_tokens: int,
        *,
        n_projected: int | None = None,
        n_features: int = 64,
        n_keys: int = 256,
        n_landmarks: int | None = None,
        window: int | None = None,
    ) -> "AttentionSpec":
        """A mechanism sized for sequences of n_tokens; what is given is kept.

        Landmarks and projected keys: 64, or half of the tokens if that is fewer (as many as tokens would be the exact
        function, only slower). The local window: as wide, and odd.
        """
        small = max(1, min(64, n_tokens // 2))
        return cls(
            name,
            max_len=n_tokens,
            n_projected=n_projected or small,
            n_features=n_features,
            n_keys=n_keys,
            n_landmarks=n_landmarks or small,
            window=window or small // 2 * 2 + 1,
        )


def build_attention(
    spec: AttentionSpec | str, d_head: int, generator: torch.Generator | None = None, *, n_heads: int = 1
) -> Attention:
    """One mechanism for n_heads heads of d_head features. generator: for random directions of features."""
    if isinstance(spec, str):
        spec = AttentionSpec(spec)
    _check_dropout(spec)
    match spec.name:
        case "sdpa" | "softmax":
            return AttentionBlock(spec.name, spec.dropout)
        case "linear":
            return LinearAttention(EluFeatures(), "linear")
        case "cosformer":
            return LinearAttention(CosineFeatures(spec.length_scale), "cosformer")
        case "favor":
            return LinearAttention(FavorFeatures(d_head, spec.n_features, generator), "favor")
        case "delta" | "gated_delta":
            return DeltaAttention(n_heads * d_head, spec.n_keys, gated=spec.name == "gated_delta", generator=generator)
        case "ssd":
            return StateSpace(n_heads * d_head, spec.n_keys, generator=generator)
        case "linformer":
            if spec.max_len is None:
                raise ValueError(
                    "linformer needs max_len, the longest sequence in tokens: its projections have one column a "
                    "position"
                )
            return Linformer(spec.max_len, spec.n_projected, spec.dropout)
        case "nystrom":
            return Nystrom(spec.n_landmarks)
        case "local":
            return LocalWindow(spec.window, spec.dropout)
        case "none":
            return NoMixing()
        case "fourier":
            return FourierMixing()
    raise ValueError(f"attention={spec.name!r}: allowed are {', '.join(MECHANISMS)}")


def _check_dropout(spec: AttentionSpec) -> None:
    if not 0 <= spec.dropout < 1:
        raise ValueError(f"dropout={spec.dropout} of attention weights is not in [0, 1)")
    if spec.dropout and spec.name not in ("sdpa", "softmax", "linformer", "local"):
        raise ValueError(f"{spec.name} attention has no weights to drop: dropout={spec.dropout} must be 0")
