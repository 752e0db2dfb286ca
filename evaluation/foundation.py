"""Features of DINOv2 and CLIP, for those who have their weights: FD-DINOv2 and CMMD.

FD-DINOv2: Stein et al. 2023 (arXiv 2306.04675), the class token of ViT-L/14. CMMD: Jayasumana et al. 2024 (arXiv
2401.09603), a kernel distance of unit-length embeddings by ViT-L/14 at 336 pixels. The files, of 1.2 and 0.9 GB, are
downloaded, or given as `weights`.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common.archives import check_unpacked_size
from common.errors import InputError
from common.files import hash_of
from common.tensors import load_torchscript
from evaluation.features import Extractor
from evaluation.vision_transformer import VisionTransformer, from_clip


@dataclass(frozen=True)
class Published:
    """A published network. digest: SHA-256 of its file, empty where none is published; then the name has the file's."""

    title: str
    url: str
    size: str
    digest: str
    pixels: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    read: Callable[[dict[str, Tensor]], dict[str, Tensor]]

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def where(self) -> str:
        """What to do without the file."""
        known = f", SHA-256 {self.digest[:8]}..." if self.digest else ""
        return (
            f"get {self.file} ({self.size}{known}) from {self.url} on a machine with internet, and put it into "
            f"{_folder()} or name it by weights=PATH; features=efficientnet needs no download"
        )


def _dinov2_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the token that only the training needs."""
    return {name: x.float() for name, x in state.items() if name != "mask_token"}


NETWORKS = {
    "dinov2": Published(
        title="DINOv2 ViT/14",
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        size="1.2 GB",
        digest="",
        pixels=224,
        mean=(0.485, 0.456, 0.406),
        deviation=(0.229, 0.224, 0.225),
        read=_dinov2_weights,
    ),
    "clip": Published(
        title="CLIP ViT-L/14 at 336 pixels",
        # the folder of the address is the file's SHA-256, which OpenAI's loader checks, too
        url="https://openaipublic.azureedge.net/clip/models/"
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
        size="0.9 GB",
        digest="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        pixels=336,
        mean=(0.48145466, 0.4578275, 0.40821073),
        deviation=(0.26862954, 0.26130258, 0.27577711),
        read=from_clip,
    ),
}
SIZES = {384: "vits14", 768: "vitb14", 1024: "vitl14"}
"""What DINOv2's networks of these widths are called."""


def foundation_extractor(
    features: str, device: torch.device, weights: Path | None = None, force: bool = False
) -> Extractor:
    """DINOv2's or CLIP's features (`features`: a name in NETWORKS).

    weights: the file; None: from torch-hub's folder, or downloaded. force: take another file than CLIP's known one.
    Raises InputError where the weights cannot be had, and for a file that is another, or damaged.
    """
    published = NETWORKS[features]
    path = weights or _downloaded(features, published)
    if not path.is_file():
        raise InputError(f"weights: {path} is not a file; {published.where()}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    genuine = digest == published.digest
    if published.digest and not genuine and not force:
        raise InputError(
            f"weights: {path} has SHA-256 {digest[:8]}..., not {published.digest[:8]}...: damaged, or another "
            f"network's; {published.where()}; force=true takes it, and its scores carry that hash"
        )
    network = _network(path, published)
    network.eval().to(device)
    mean, deviation = (torch.tensor(x).view(3, 1, 1).to(device) for x in (published.mean, published.deviation))
    clip = features == "clip"

    def run(images: Tensor) -> tuple[Tensor, None]:
        x = resized(images.to(device), published.pixels)
        # DINOv2's distance resizes 8-bit images, which ends at 0 and 255; CMMD's does not.
        x = network(((x if clip else x.clamp(0, 255)) / 255 - mean) / deviation)
        return (F.normalize(x, dim=1) if clip else x), None

    dim = network.norm.normalized_shape[0]
    kind = "clip_vitl14_336" if clip else f"dinov2_{SIZES.get(dim, f'vit{dim}')}"
    name = kind if genuine else f"{kind}_{digest[:8]}"
    return Extractor(
        name=name,
        score=f"fd_{name}",
        kernel_score=f"kd_{name}",
        network=run,
        dim=network.out_dim,
        fingerprint=hash_of([features, digest]),
        family=f"{published.title}, SHA-256 {digest[:12]}",
        resize=f"{published.pixels} pixels, bicubic with antialiasing, no crop",
        cmmd_score=("cmmd" if genuine else f"cmmd_{name}") if clip else None,
    )


def resized(images: Tensor, pixels: int) -> Tensor:
    """uint8 [n, 3, H, W] -> float [n, 3, pixels, pixels], 0..255 and a little beyond. The kernel is Pillow's."""
    return F.interpolate(images.float(), size=(pixels, pixels), mode="bicubic", antialias=True, align_corners=False)


def _network(path: Path, published: Published) -> VisionTransformer:
    """The network of the file's weights; depth and widths are those of the file."""
    try:
        state = published.read(_state(path))
        dim, _, patch, _ = state["patch_embed.proj.weight"].shape
        projected = state["head.weight"].shape[0] if "head.weight" in state else None
        with torch.device("meta"):
            network = VisionTransformer(
                dim=dim,
                depth=len([name for name in state if name.endswith(".attn.qkv.weight")]),
                heads=dim // 64,
                patch=patch,
                grid=round((state["pos_embed"].shape[1] - 1) ** 0.5),
                clip_dim=projected,
            )
        network.load_state_dict(state, assign=True)
    except Exception as error:  # a file of something else fails in many ways
        fault = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"weights: {path} does not hold {published.title} ({fault}); {published.where()}") from None
    return network


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, or (as OpenAI publishes CLIP) of a TorchScript program."""
    check_unpacked_size(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'torch.load' received a zip file that looks like a TorchScript")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise
        return load_torchscript(path, "cpu").state_dict()
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, not tensors by name")
    return state


def _folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(features: str, published: Published) -> Path:
    path = _folder() / published.file
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.digest or None)
        except Exception as error:
            raise InputError(
                f"features={features}: the weights cannot be downloaded ({error}); {published.where()}"
            ) from None
    return path
