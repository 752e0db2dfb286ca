"""From images to features: the feature networks that distances are measured in, and one pass of images through them.

A score is called `fid` only with the 2015 TF-Inception weights, whose SHA-256 is checked; other features give
`fd_<features>`.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.archives import check_unpacked_size
from common.errors import InputError
from common.files import atomic_file, hash_of
from common.tensors import load_tensors, load_torchscript, save_tensors
from evaluation.frechet import Moments

# torch-fidelity's conversion of the TF-Inception graph of 2015-12-05; the suffix is the start of its SHA-256.
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_FILE = INCEPTION_URL.rsplit("/", 1)[1]
INCEPTION_HASH = "6726825d"
INCEPTION_SIZE = "about 95 MB"


@dataclass(frozen=True)
class Extractor:
    """A feature network with what must be said beside its scores.

    network: uint8 images [n, 3, H, W] -> (features [n, dim], class logits [n, classes] or None).
    score, kernel_score: what the Fréchet and the kernel distance in these features are called. cmmd_score: what CMMD is
        called, where the features are CLIP's, which it is made of.
    fingerprint: hash of weights and preprocessing. family, resize: shown as params of a run.
    """

    name: str
    score: str
    kernel_score: str
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    dim: int
    fingerprint: str
    family: str
    resize: str
    cmmd_score: str | None = None


@dataclass
class Features:
    """Features of images in their order, on the CPU: x float32 [n, d], logits [n, classes], and the moments of x."""

    x: Tensor
    logits: Tensor | None = None
    moments: Moments = field(init=False)

    def __post_init__(self) -> None:
        self.moments = Moments.of(self.x)


@torch.no_grad()
def extract(
    extractor: Extractor, batches: Iterable[Tensor], progress: Callable[[int], None] = lambda n: None
) -> Features:
    """One pass over uint8 batches [n, 3, H, W]; no image is kept.

    progress: called with the size of each batch that is done. Raises InputError at the first batch whose features are
    not finite.
    """
    features: list[Tensor] = []
    logits: list[Tensor] = []
    for batch in batches:
        x, y = extractor.network(batch)
        if not x.isfinite().all():
            number = sum(len(part) for part in features) + int((~x.isfinite().all(1)).int().argmax())
            raise InputError(
                f"features={extractor.name}: those of image {number} are NaN or infinite, so no distance can be "
                "measured: the generator's images or the feature network are broken; give another of them"
            )
        features.append(x.float().cpu())
        if y is not None:
            logits.append(y.float().cpu())
        progress(len(batch))
    return Features(torch.cat(features), torch.cat(logits) if logits else None)


def cache_path(key: Any, cache_dir: Path) -> Path:
    """The file in which features are kept; `key` (JSON values) holds everything that they depend on."""
    return cache_dir / f"features-{hash_of(key)[:32]}.safetensors"


def load_features(path: Path) -> Features | None:
    """Features that `save_features` wrote; None where there are none or the file is damaged."""
    try:
        tensors = load_tensors(path)
        return Features(tensors["features"], tensors.get("logits"))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError):
        print(f"{path} is damaged; computing the reference features again")
        return None


def save_features(path: Path, features: Features) -> None:
    """Keep features for the next run, atomically. If they cannot be written, a line says so and the run goes on."""
    tensors = {"features": features.x}
    if features.logits is not None:
        tensors["logits"] = features.logits
    try:
        with atomic_file(path) as temporary:
            save_tensors(temporary, tensors)
    except OSError as error:
        print(f"{path} cannot be written ({error.strerror}); the next run will compute these features again")


# ----------------------------------------------------------------------------------------------------------------
# networks


def inception_extractor(weights: Path | None, device: torch.device, force: bool = False) -> Extractor:
    """torch-fidelity's TF-Inception, the network of the TTUR code and torch-mimicry too, arranged to run faster.

    weights: the .pth file; None: from torch-hub's cache, or downloaded. force: take a file with another hash; its score
    is then called fd_inception_<hash>.

    Raises InputError if the weights cannot be downloaded (with name, size, hash and address of the file), and for a
    file with another hash without `force`.
    """
    path = weights or _downloaded_inception()
    if not path.is_file():
        raise InputError(f"weights: {path} is not a file; {_where_to_get_inception()}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    genuine = digest.startswith(INCEPTION_HASH)
    if not genuine and not force:
        raise InputError(
            f"weights: {path} has SHA-256 {digest[:8]}..., not {INCEPTION_HASH}...: damaged, or another network's; "
            f"{_where_to_get_inception()}; force=true takes it, and calls the score fd_inception_{digest[:8]}"
        )
    try:
        check_unpacked_size(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = build_inception(state)
    except Exception as error:
        raise InputError(
            f"weights: {path} does not hold torch-fidelity's Inception ({' '.join(str(error).split())[:120]})"
        ) from None
    return wrap_inception(network, digest, genuine, device)


def build_inception(state: dict[str, Tensor], layers: Sequence[str] = ("2048", "logits_unbiased")) -> nn.Module:
    """torch-fidelity's network with these weights; it returns the outputs of `layers`."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Its constructor reads a file, and would unpickle anything in it: it gets one that holds nothing but these tensors.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "weights.pth")
        torch.save(state, path)
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", list(layers), feature_extractor_weights_path=path
        ).eval()


def wrap_inception(network: nn.Module, digest: str, genuine: bool, device: torch.device) -> Extractor:
    """An extractor from `build_inception`'s network; its batch norms are folded into the convolutions in place."""
    fold_batch_norms(network)
    network.to(device).to(memory_format=torch.channels_last)
    suffix = "" if genuine else f"_inception_{digest[:8]}"

    def run(images: Tensor) -> tuple[Tensor, Tensor | None]:
        x, *logits = network(images.to(device).contiguous(memory_format=torch.channels_last))
        return x, logits[0] if logits else None

    return Extractor(
        name="inception" if genuine else f"inception_{digest[:8]}",
        score="fid" if genuine else f"fd{suffix}",
        kernel_score="kid" if genuine else f"kd{suffix}",
        network=run,
        dim=2048,
        fingerprint=hash_of(["inception", digest]),
        family="TF-Inception 2015-12-05 (TTUR, torch-mimicry, torch-fidelity)"
        if genuine
        else "Inception with other weights",
        resize="299 pixels, TensorFlow 1 bilinear",
    )


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm (eval mode) of torch-fidelity's `BasicConv2d` blocks into its convolution: equal to
    rounding.
    """
    for block in network.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = nn.utils.fuse_conv_bn_eval(conv, norm), nn.Identity()


def _downloaded_inception() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_HASH)
        except Exception as error:
            raise InputError(
                f"features=inception: the weights cannot be downloaded ({error}); {_where_to_get_inception()}"
            ) from None
    return path


def _where_to_get_inception() -> str:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"get {INCEPTION_FILE} ({INCEPTION_SIZE}, SHA-256 {INCEPTION_HASH}...) from {INCEPTION_URL} on a machine with "
        f"internet, and put it into {folder} or name it by weights=PATH; features=efficientnet needs no download"
    )


def network_extractor(
    name: str, network: Callable[[Tensor], Tensor], fingerprint: str, family: str, device: torch.device
) -> Extractor:
    """An extractor from any network that takes images [n, 3, H, W] in [-1, 1].

    network: returns features [n, d] or [n, d, 1, 1]. name: the scores are called fd_<name> and kd_<name>.
    """

    def run(images: Tensor) -> tuple[Tensor, Tensor | None]:
        x = network(images.to(device).float() / 127.5 - 1)
        if not isinstance(x, Tensor) or x.shape[0] != len(images):
            raise InputError(f"features={name}: the network returns no tensor with a row for each image")
        return x.flatten(1), None

    try:
        with torch.no_grad():
            dim = run(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))[0].shape[1]
    except (RuntimeError, AssertionError) as error:
        fault = str(error).strip().splitlines()[-1][:150]
        raise InputError(f"features={name}: the network does not take images [2, 3, 32, 32] ({fault})") from None
    slug = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "network"  # MLflow's metrics are ASCII
    return Extractor(
        name=slug,
        score=f"fd_{slug}",
        kernel_score=f"kd_{slug}",
        network=run,
        dim=dim,
        fingerprint=fingerprint,
        family=family,
        resize="none, or the network's own",
    )


def file_extractor(path: Path, device: torch.device, open_program: Callable[[Path], Any]) -> Extractor:
    """An extractor from a TorchScript file (.pt, .ts, .torchscript) or an exported program (.pt2).

    open_program: reads an exported program.
    """
    if not path.is_file():
        raise InputError(
            f"features: {str(path)!r} is neither inception, efficientnet, digits, dinov2, clip, a models:/ address "
            "nor a file"
        )
    try:
        network: Any = open_program(path) if path.suffix == ".pt2" else load_torchscript(path, device)
    except Exception as error:
        fault = " ".join(str(error).split())[:200]
        raise InputError(
            f"features: {path} is neither a TorchScript file nor an exported .pt2 program ({fault})"
        ) from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # The hash in the name: files of one name in two folders, or one called digits.pt, must not share a score's name.
    name = f"{path.stem}_{digest[:8]}"
    return network_extractor(
        name=name,
        network=network,
        fingerprint=digest,
        family=f"file {path.name}, SHA-256 {digest[:12]}",
        device=device,
    )
