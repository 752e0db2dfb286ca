"""The parameters of `eeg_transformer`, and the network they ask for."""

from typing import Any, Literal

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from common.errors import InputError
from data.eeg import physionet
from data.eeg.sources import EEG_SOURCES, is_own
from models.attention.spec import MECHANISMS, AttentionSpec
from models.eeg.simclr import ChannelEncoder
from models.eeg.transformer import EegTransformer
from tracking.registry.models import load_weights
from training.config import CONFIG, OptionalStr, Strings, option, with_default
from training.eeg.config import OF_WINDOWS, QUICK, EegConfig
from training.eeg.deep_baselines import NETWORKS

OWN = "transformer"
"""What results, metrics and figures call the network of this trainer."""


@dataclass(frozen=True, config=CONFIG)
class TransformerConfig(EegConfig):
    """Sizes of the EEG Transformer."""

    augment: Strings = with_default(EegConfig, "augment", ("time_shift", "noise", "band_stop", "zero_mask"))
    patch_len: int = option(40, "samples of a token: a slice of time over all channels", ge=1)
    patch_stride: int = option(20, "samples between the starts of neighbouring tokens", ge=1)
    d_model: int = option(64, "features of a token", ge=1)
    n_heads: int = option(4, "attention heads; divides d_model", ge=1)
    n_layers: int = option(2, "encoder layers", ge=1)
    n_decoder_layers: int = option(1, "decoder layers of pool=decoder", ge=1)
    d_ff: int = option(128, "hidden features of the layers' networks", ge=1)
    dropout: float = option(0.5, "probability of dropout", ge=0, lt=1, changeable=True)
    pool: Literal["decoder", "cls", "mean"] = option(
        "decoder", "readout: class queries that attend to the tokens, an extra token, or the tokens' mean"
    )
    embedding: Literal["power", "linear"] = option(
        "power", "how a token is embedded; power: log power of learned filters; linear: a linear map"
    )
    n_filters: int = option(32, "filters of embedding=power", ge=1)
    filter_len: int = option(33, "samples of a temporal filter of embedding=power, odd", ge=1)
    encoder_uri: OptionalStr = option(
        None,
        "registered channel encoder of eeg_simclr to start from: tokens are embedded from its features",
    )
    n_landmarks: int = option(0, "landmarks of nystrom; 0: 64, or half of the tokens if that is fewer", ge=0)
    n_projected: int = option(0, "keys and values of linformer after projection; 0: as n_landmarks", ge=0)
    n_features: int = option(64, "random features of favor", ge=1)
    n_keys: int = option(256, "features of a key of delta, gated_delta and ssd", ge=1)
    attention_window: int = option(
        0, "tokens that local attention sees, odd; 0: 65, or about half of the tokens if that is fewer", ge=0
    )

    @model_validator(mode="after")
    def _patch_fits(self) -> "TransformerConfig":
        if self.patch_len > self.window:
            raise ValueError(f"patch_len={self.patch_len} is longer than the window of {self.window} samples")
        return self


@dataclass(frozen=True, config=CONFIG)
class EegTransformerConfig(TransformerConfig):
    """Classify imagined left or right fist movement with a Transformer, beside CSP + LDA, tangent space and EEGNet."""

    network: Literal["lateral", "windows"] = option(
        "lateral",
        "lateral: attention weighs slices of a trial by what differs between left and right; windows: a Transformer "
        "on windows, to which the sizes (patch_len to attention_window) and epochs, lr, augment and so on apply",
    )
    n_networks: int = option(5, "network=lateral: networks of different seeds whose mean answers", ge=1)
    n_updates: int = option(
        150,
        "network=lateral: updates of each network; a deep baseline gets six times as many",
        ge=1,
        changeable=True,
    )
    deep_baselines: Strings = option(
        ("eegnet",),
        f"network=lateral: networks to compare with: none, or some of {', '.join(NETWORKS)}; the last three need "
        "braindecode",
        changeable=True,
    )
    attention: str = option("sdpa", f"mechanism of the encoder: {', '.join(MECHANISMS)}")
    batch_size: int = with_default(EegConfig, "batch_size", 128)
    weight_decay: float = with_default(EegConfig, "weight_decay", 0.1)
    n_folds: int = with_default(EegConfig, "n_folds", 3)

    @model_validator(mode="after")
    def _sizes_agree(self) -> "EegTransformerConfig":
        if self.attention not in MECHANISMS:
            raise ValueError(f"attention={self.attention!r}: allowed are {', '.join(MECHANISMS)}")
        if unknown := sorted(set(self.deep_baselines) - set(NETWORKS)):
            raise ValueError(f"deep_baselines={','.join(unknown)}: allowed are {', '.join(NETWORKS)}")
        with torch.device("meta"):  # builds nothing, but checks the widths
            build_network(self, 64)
        if self.network == "lateral" and self.encoder_uri:
            raise ValueError("encoder_uri: a channel encoder embeds the tokens of network=windows; give that too")
        if self.network == "lateral" and self.nproc > 1:
            raise ValueError(f"nproc={self.nproc}: network=lateral trains in one process; give network=windows too")
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
    "n_keys",
    "attention_window",
)
"""Fields it takes to build the network again."""


OF_NETWORK = {
    "windows": (*OF_WINDOWS, *(name for name in SIZES if name != "attention"), "dropout"),
    "lateral": ("n_networks", "n_updates", "deep_baselines"),
}
"""Fields that one choice of `network` alone uses."""

PRESETS: dict[str, dict[str, Any]] = {
    # A smaller network for a sixth of the subjects, chosen on other simulated subjects (docs/eeg_transformer.md).
    "quick": {
        "dataset": QUICK["dataset"],  # with as many folds as on people
        "subjects": "1-12",
        "validation_share": 0.25,
        "epochs": 12,
        "patience": 8,
        "batch_size": 32,
        "weight_decay": 0.3,
        "d_model": 32,
        "n_layers": 1,
        "d_ff": 64,
        "n_filters": 16,
    },
    "physionet": {},
}


def attention_spec(config: TransformerConfig, name: str) -> AttentionSpec:
    """A mechanism sized for the windows of `config`."""
    n_tokens = (config.window - config.patch_len) // config.patch_stride + 1 + (config.pool == "cls")
    if name == "nystrom" and config.n_landmarks > n_tokens:
        raise ValueError(f"n_landmarks={config.n_landmarks} exceeds the {n_tokens} tokens of a window")
    return AttentionSpec.for_length(
        name,
        n_tokens,
        n_projected=config.n_projected or None,
        n_features=config.n_features,
        n_keys=config.n_keys,
        n_landmarks=config.n_landmarks or None,
        window=config.attention_window or None,
    )


def build_network(config: EegTransformerConfig, n_chans: int, n_classes: int = 2) -> EegTransformer:
    """The network with weights drawn from torch's global generator."""
    return build_with_attention(config, n_chans, config.attention, n_classes)


def build_with_attention(config: TransformerConfig, n_chans: int, attention: str, n_classes: int = 2) -> EegTransformer:
    """The network with this mechanism in its encoder and weights drawn from torch's global generator."""
    on_meta = torch.get_default_device().type == "meta"
    return EegTransformer(
        n_chans,
        n_classes,
        patch_len=config.patch_len,
        patch_stride=config.patch_stride,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_layers=config.n_layers,
        n_decoder_layers=config.n_decoder_layers,
        d_ff=config.d_ff,
        dropout=config.dropout,
        pool=config.pool,
        embedding=config.embedding,
        n_filters=config.n_filters,
        filter_len=config.filter_len,
        attention=attention_spec(config, attention),
        generator=None if on_meta else torch.Generator().manual_seed(config.seed),
        channel_encoder=None if on_meta or not config.encoder_uri else load_channel_encoder(config),
    )


def load_channel_encoder(config: TransformerConfig) -> ChannelEncoder:
    """The channel encoder that `encoder_uri` names, with its weights.

    InputError if it is another kind of model, was pre-trained on recordings of people that this run would test on, or
    cannot share the slices of time.
    """
    assert config.encoder_uri is not None
    tensors, sizes = load_weights(config.encoder_uri)
    if sizes.get("class") != "eeg-channel-encoder":
        raise InputError(
            f"encoder_uri: {config.encoder_uri} is not a channel encoder, but {sizes.get('class', 'unknown')}"
        )
    check_not_seen(config, sizes)
    decimate = int(sizes["decimate"])
    if config.patch_len % decimate or config.patch_stride % decimate:
        raise InputError(
            f"encoder_uri: its encoder decimates by {decimate}, so patch_len={config.patch_len} and "
            f"patch_stride={config.patch_stride} must be multiples of {decimate}"
        )
    a, b, c, d = sizes["kernels"]
    encoder = ChannelEncoder(
        sizes["kind"], sizes["width"], (a, b, c, d), n_features=sizes["n_features"], decimate=decimate
    )
    encoder.load_state_dict(tensors)
    return encoder


def check_not_seen(config: TransformerConfig, sizes: dict[str, Any]) -> None:
    """InputError where an encoder of these `sizes` was pre-trained on people that this run would test on."""
    if sizes["dataset"] != config.dataset:
        return
    if is_own(config.dataset):  # people of one's own recordings are numbered anew in every folder
        raise InputError(
            f"encoder_uri: {config.encoder_uri} was pre-trained on dataset={config.dataset} as well, perhaps on people "
            "whom this run would test on; give an encoder trained on other data"
        )
    highest = EEG_SOURCES[config.dataset].n_subjects
    tested = config.test_subjects or config.subjects  # without test_subjects everybody is tested once
    shared = sorted(set(sizes["subjects"]) & set(physionet.parse_numbers(tested, "subjects", highest)))
    if shared:
        raise InputError(
            f"encoder_uri: {config.encoder_uri} was pre-trained on subjects {', '.join(map(str, shared))} of "
            f"{config.dataset}, whom this run would test on; give other subjects, or an encoder trained on other people"
        )
