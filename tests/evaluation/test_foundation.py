"""DINOv2's and CLIP's networks against torchvision's and torch's own, files of their layout, and what is refused."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as Torchvisions

from common.errors import InputError
from evaluation import foundation
from evaluation.foundation import NETWORKS, foundation_extractor, resized
from evaluation.frechet import cmmd
from evaluation.vision_transformer import VisionTransformer, from_clip

CPU = torch.device("cpu")
WIDTH, HEADS, DEPTH = 128, 2, 2


def randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in network.parameters():
            x.copy_(torch.randn(x.shape, generator=generator) * 0.1)
    return network.eval()


def dinov2_state(grid: int = 4) -> dict[str, Tensor]:
    """A small file of DINOv2's layout."""
    network = randomised(VisionTransformer(dim=WIDTH, depth=DEPTH, heads=HEADS, patch=14, grid=grid))
    return {**network.state_dict(), "mask_token": torch.zeros(1, WIDTH)}


class ClipBlock(nn.Module):
    """The block of OpenAI's network, of torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))


class ClipVisual(nn.Module):
    """OpenAI's image network, by its published names."""

    def __init__(self, grid: int = 24, out: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 14, 14, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + grid**2, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*[ClipBlock() for _ in range(DEPTH)])})
        self.proj = nn.Parameter(torch.zeros(WIDTH, out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.class_embedding.expand(1, x.shape[1], -1), x]) + self.positional_embedding[:, None]
        return self.ln_post(self.transformer["resblocks"](self.ln_pre(x))[0]) @ self.proj


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = ClipVisual()

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x)


# --- the networks -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_dinov2_is_torchvisions_vision_transformer_with_its_scales_at_one() -> None:
    theirs = randomised(Torchvisions(56, 14, DEPTH, HEADS, WIDTH, 4 * WIDTH))
    theirs.heads = nn.Identity()
    state = theirs.state_dict()
    ours = VisionTransformer(dim=WIDTH, depth=DEPTH, heads=HEADS, patch=14, grid=4)
    names = {
        "class_token": "cls_token",
        "conv_proj.weight": "patch_embed.proj.weight",
        "conv_proj.bias": "patch_embed.proj.bias",
        "encoder.pos_embedding": "pos_embed",
        "encoder.ln.weight": "norm.weight",
        "encoder.ln.bias": "norm.bias",
    }
    for i in range(DEPTH):
        for a, b in (
            ("ln_1.", "norm1."),
            ("ln_2.", "norm2."),
            ("self_attention.in_proj_", "attn.qkv."),
            ("self_attention.out_proj.", "attn.proj."),
            ("mlp.0.", "mlp.fc1."),
            ("mlp.3.", "mlp.fc2."),
        ):
            for kind in ("weight", "bias"):
                names[f"encoder.layers.encoder_layer_{i}.{a}{kind}"] = f"blocks.{i}.{b}{kind}"
    assert set(names) == set(state)
    missing = ours.load_state_dict({names[name]: x for name, x in state.items()}, strict=False).missing_keys
    assert all(name.endswith(".gamma") for name in missing)
    x = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-5)
    ours.blocks[0].ls1.gamma.zero_()
    ours.blocks[0].ls2.gamma.zero_()
    unscaled = ours(x)
    ours.blocks[0] = nn.Identity()  # what is scaled by zero adds nothing
    torch.testing.assert_close(unscaled, ours(x))


@torch.no_grad()
def test_clip_is_the_network_of_its_published_names() -> None:
    theirs = randomised(Clip())
    state = from_clip({**theirs.half().state_dict(), "logit_scale": torch.ones(())})  # half, as published
    theirs.float()
    ours = VisionTransformer(dim=WIDTH, depth=DEPTH, heads=HEADS, patch=14, grid=24, clip_dim=16)
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        large = VisionTransformer(dim=1024, depth=24, heads=16, patch=14, grid=37)
        clip = VisionTransformer(dim=1024, depth=24, heads=16, patch=14, grid=24, clip_dim=768)
    # as published: DINOv2's file has 1,217,586,395 bytes, four for each of these and of the mask token, and 0.1 MB more
    count = sum(x.numel() for x in large.parameters()) + 1024
    assert 0 < 1_217_586_395 - 4 * count < 200_000
    assert clip.head.out_features == 768
    assert large(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1024)
    assert clip(torch.zeros(1, 3, 336, 336, device="meta")).shape == (1, 768)


@torch.no_grad()
def test_positions_of_another_size_are_interpolated_about_the_same_places() -> None:
    network = VisionTransformer(dim=2, depth=0, heads=1, patch=14, grid=37)
    rows = torch.linspace(0, 1, 37)
    network.pos_embed[0, 1:] = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), -1).flatten(0, 1)
    positions = network.positions(16)[0, 1:].view(16, 16, 2)
    centres = (torch.arange(16) + 0.5) / 16.1 * 37 / 36 - 0.5 / 36  # of a patch, in the units of `rows`
    inner = slice(
        1, 15
    )  # at the rim the cubic sees the same row twice; with 37 / 16 instead of 37 / 16.1 they are 6e-3 off
    torch.testing.assert_close(positions[inner, 3, 0], centres[inner], atol=2e-3, rtol=0)
    torch.testing.assert_close(positions[3, inner, 1], centres[inner], atol=2e-3, rtol=0)
    assert network.positions(37) is network.pos_embed


# --- files of weights -----------------------------------------------------------------------------------------


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))


@torch.no_grad()
def test_a_file_of_dinov2s_layout(tmp_path: Path, images: Tensor) -> None:
    path = tmp_path / "dinov2.pth"
    torch.save(dinov2_state(), path)
    extractor = foundation_extractor("dinov2", CPU, path)
    features, _ = extractor.network(images)
    assert features.shape == (3, WIDTH) == (3, extractor.dim)
    digest = extractor.family[-12:]
    assert extractor.score == f"fd_dinov2_vit{WIDTH}_{digest[:8]}"  # its hash, since none is published
    assert extractor.cmmd_score is None
    network = VisionTransformer(dim=WIDTH, depth=DEPTH, heads=HEADS, patch=14, grid=4).eval()
    network.load_state_dict({name: x for name, x in dinov2_state().items() if name != "mask_token"})
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (resized(images, 224).clamp(0, 255) / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    torch.testing.assert_close(features, network(x))


@torch.no_grad()
@pytest.mark.parametrize("program", [False, True])
def test_a_file_of_clips_layout(tmp_path: Path, images: Tensor, program: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clip = tmp_path / "ViT-L-14-336px.pt", randomised(Clip())
    if program:  # as OpenAI publishes it
        torch.jit.trace(clip, torch.zeros(1, 3, 336, 336)).save(str(path))
    else:
        torch.save(clip.state_dict(), path)
    with pytest.raises(
        InputError, match=r"has SHA-256 .{8}..., not 3035c92b...: damaged, or another network's; get ViT"
    ):
        foundation_extractor("clip", CPU, path)
    extractor = foundation_extractor("clip", CPU, path, force=True)
    features, _ = extractor.network(images)
    assert features.shape == (3, 16) == (3, extractor.dim)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    digest = extractor.family[-12:]
    assert extractor.cmmd_score == f"cmmd_clip_vitl14_336_{digest[:8]}"
    monkeypatch.setitem(NETWORKS, "clip", _with_digest(path))
    genuine = foundation_extractor("clip", CPU, path)
    assert (genuine.score, genuine.cmmd_score) == ("fd_clip_vitl14_336", "cmmd")


def _with_digest(path: Path) -> foundation.Published:
    return replace(NETWORKS["clip"], digest=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"weight": torch.zeros(3)},
        lambda: [torch.zeros(3)],
        lambda: {name: x for name, x in dinov2_state().items() if "mlp" not in name},
        lambda: {**dinov2_state(), "register_tokens": torch.zeros(1, 4, WIDTH)},
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Callable[[], object]) -> None:
    torch.save(content(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x.pth does not hold DINOv2 ViT/14 \(.*; get dinov2_vitl14_pretrain.pth"):
        foundation_extractor("dinov2", CPU, tmp_path / "x.pth")


@pytest.mark.parametrize(("features", "size"), [("dinov2", "1.2 GB"), ("clip", "0.9 GB, SHA-256 3035c92b")])
def test_weights_that_cannot_be_had_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str, size: str
) -> None:
    def fail(url: str, path: str, hash_prefix: str | None) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError) as caught:
        foundation_extractor(features, CPU)
    published = NETWORKS[features]
    for words in (
        f"features={features}: the weights cannot be downloaded (no route to host)",
        f"get {published.file} ({size}",
        published.url,
        f"put it into {tmp_path / 'checkpoints'} or name it by weights=PATH",
        "features=efficientnet needs no download",
    ):
        assert words in str(caught.value)
    with pytest.raises(InputError, match=r"nothing.pth is not a file; get "):
        foundation_extractor(features, CPU, tmp_path / "nothing.pth")


# --- CMMD -----------------------------------------------------------------------------------------------------


def test_cmmd_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 5, generator=generator).double(), torch.randn(17, 5, generator=generator).double() + 1

    def mean(a: Tensor, b: Tensor) -> float:
        return sum(float(torch.exp(-((p - q) ** 2).sum() / 200)) for p in a for q in b) / (len(a) * len(b))

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, y, rows=4) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)
