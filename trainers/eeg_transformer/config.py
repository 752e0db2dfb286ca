"""The parameters of `eeg_transformer`, and the network they ask for."""

from typing import Any, Literal

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from common.errors import InputError
from data.eeg import physionet, simulated
from evaluation.classification import CLASSES
from models.attention.spec import MECHANISMS, AttentionSpec
from models.eeg.augment import NAMES
from models.eeg.simclr import ChannelEncoder
from models.eeg.transformer import EegTransformer
from tracking.registry.models import load_weights
from training.config import CONFIG, OptionalStr, Strings, option
from training.eeg.config import PHYSIONET, EegConfig


@dataclass(frozen=True, config=CONFIG)
class EegTransformerConfig(EegConfig):
    """Classify imagined left or right fist movement with a Transformer, beside CSP + LDA, tangent space and EEGNet."""

    # Sized for the dozen simulated subjects of preset=quick: chosen on other simulated subjects,
    # docs/eeg_transformer.md
    subjects: str = option("1-12", "subjects, as 1,3,7-20")
    align: Literal["none", "euclidean"] = option(
        "euclidean", "whiten everyone's windows by their own mean covariance, without labels, for all networks"
    )
    validation_share: float = option(
        0.25, "share of the training subjects (or trials) that early stopping looks at", gt=0, lt=1
    )
    epochs: int = option(12, "passes over the training windows at most", ge=1)
    patience: int = option(8, "epochs without a better validation accuracy before training stops", ge=1)
    batch_size: int = option(32, "windows per update, over all processes", ge=1)
    updates_per_epoch: int = option(
        40, "updates of an epoch at least: where training windows are few, it passes over them more than once", ge=1
    )
    augment: Strings = option(
        ("time_shift", "noise", "band_stop", "zero_mask"),
        f"augmentations of training windows, one drawn for each window: none, or some of {', '.join(NAMES)}",
    )
    weight_decay: float = option(0.3, "AdamW's weight decay", ge=0)
    patch_len: int = option(40, "samples of a token: a slice of time over all channels", ge=1)
    patch_stride: int = option(20, "samples between the starts of neighbouring tokens", ge=1)
    d_model: int = option(32, "features of a token", ge=1)
    n_heads: int = option(4, "attention heads; divides d_model", ge=1)
    n_layers: int = option(1, "encoder layers", ge=1)
    n_decoder_layers: int = option(1, "decoder layers, of pool=decoder", ge=1)
    d_ff: int = option(64, "hidden features of the layers' networks", ge=1)
    dropout: float = option(0.5, "dropout", ge=0, lt=1)
    pool: Literal["decoder", "cls", "mean"] = option(
        "decoder", "class queries that attend to the slices, a token, or the mean"
    )
    embedding: Literal["power", "linear"] = option("power", "of a slice: log power of learned filters, or a linear map")
    n_filters: int = option(16, "filters of embedding=power", ge=1)
    filter_len: int = option(33, "samples of a temporal filter of embedding=power, odd", ge=1)
    encoder_uri: OptionalStr = option(
        None,
        "registered channel encoder to begin with, eeg_simclr's: tokens are embedded from its features of the channels",
    )
    attention: str = option("sdpa", f"mechanism of the encoder: {', '.join(MECHANISMS)}")
    n_landmarks: int = option(0, "landmarks of nystrom; 0: 64, or half of the tokens if that is fewer", ge=0)
    n_projected: int = option(0, "keys and values of linformer after projection; 0: as n_landmarks", ge=0)
    n_features: int = option(64, "random features of favor", ge=1)
    attention_window: int = option(
        0, "tokens that local attention sees, odd; 0: 65, or about half if that is fewer", ge=0
    )

    @model_validator(mode="after")
    def _sizes_agree(self) -> "EegTransformerConfig":
        if self.patch_len > self.window:
            raise ValueError(f"patch_len={self.patch_len} is longer than the window of {self.window} samples")
        if self.attention not in MECHANISMS:
            raise ValueError(f"attention={self.attention!r}: allowed are {', '.join(MECHANISMS)}")
        with torch.device("meta"):  # builds nothing, but checks the widths
            build_network(self, 64)
        return self


SIZES = (
    "patch_len",
    "patch_stride",
    "d_model",
    "n_heads",
    "n_layers",
    "n_decoder_layers",
    "d_ff",
    "pool",
    "embedding",
    "n_filters",
    "filter_len",
    "attention",
    "n_landmarks",
    "n_projected",
    "n_features",
    "attention_window",
)
"""Fields it takes to build the network again."""


# Six times the subjects of quick: a larger network and larger batches.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "physionet": {
        **PHYSIONET,
        "validation_share": 0.2,
        "batch_size": 128,
        "weight_decay": 0.1,
        "d_model": 64,
        "n_layers": 2,
        "d_ff": 128,
        "n_filters": 32,
    },
}


def attention_spec(config: EegTransformerConfig, name: str) -> AttentionSpec:
    """A mechanism sized for the windows of `config`."""
    n_tokens = (config.window - config.patch_len) // config.patch_stride + 1 + (config.pool == "cls")
    small = max(1, min(64, n_tokens // 2))  # as many as tokens would be the exact function, only slower
    odd = small // 2 * 2 + 1
    if name == "nystrom" and config.n_landmarks > n_tokens:
        raise ValueError(f"n_landmarks={config.n_landmarks} exceeds the {n_tokens} tokens of a window")
    return AttentionSpec(
        name,
        n_tokens,
        config.n_projected or small,
        config.n_features,
        config.n_landmarks or small,
        config.attention_window or odd,
    )


def build_network(config: EegTransformerConfig, n_chans: int, attention: str | None = None) -> EegTransformer:
    """The network with weights drawn from torch's global generator; `attention` instead of the config's, if given."""
    on_meta = torch.get_default_device().type == "meta"
    return EegTransformer(
        n_chans,
        len(CLASSES),
        config.patch_len,
        config.patch_stride,
        config.d_model,
        config.n_heads,
        config.n_layers,
        config.n_decoder_layers,
        config.d_ff,
        config.dropout,
        config.pool,
        config.embedding,
        config.n_filters,
        config.filter_len,
        attention_spec(config, attention or config.attention),
        None if on_meta else torch.Generator().manual_seed(config.seed),
        None if on_meta or not config.encoder_uri else load_channel_encoder(config),
    )


def load_channel_encoder(config: EegTransformerConfig) -> ChannelEncoder:
    """The channel encoder that `encoder_uri` names, with its weights.

    InputError if it is another kind of model, was pre-trained on recordings of people that this run would test on, or
    cannot share the slices of time.
    """
    assert config.encoder_uri is not None
    tensors, sizes = load_weights(config.encoder_uri)
    if sizes.get("class") != "eeg-channel-encoder":
        raise InputError(
            f"encoder_uri: {config.encoder_uri} is no channel encoder, but {sizes.get('class', 'unknown')}"
        )
    highest = {"simulated": simulated.N_SUBJECTS, "physionet": physionet.N_SUBJECTS}[config.dataset]
    known = set(sizes["subjects"]) if sizes["dataset"] == config.dataset else set()
    shared = sorted(known & set(physionet.parse_numbers(config.subjects, "subjects", highest)))
    if shared:
        raise InputError(
            f"encoder_uri: {config.encoder_uri} was pre-trained on subjects {', '.join(map(str, shared))} of "
            f"{config.dataset}, whom this run would test on; give other subjects, or an encoder of other people"
        )
    decimate = int(sizes["decimate"])
    if config.patch_len % decimate or config.patch_stride % decimate:
        raise InputError(
            f"encoder_uri: its encoder reads every {decimate}. sample; patch_len={config.patch_len} and "
            f"patch_stride={config.patch_stride} must be multiples of {decimate}"
        )
    a, b, c, d = sizes["kernels"]
    encoder = ChannelEncoder(sizes["kind"], sizes["width"], (a, b, c, d), sizes["n_features"], decimate)
    encoder.load_state_dict(tensors)
    return encoder
