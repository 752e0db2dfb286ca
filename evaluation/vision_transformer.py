"""The vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) as DINOv2 and CLIP trained it.

Parameters have the names of DINOv2's published files; `from_clip` gives CLIP's the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, dim))


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Scale(nn.Module):
    """LayerScale (Touvron et al. 2021): a factor for each feature."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class MLP(nn.Module):
    def __init__(self, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), activation, nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); DINOv2 scales what is added."""

    def __init__(self, dim: int, heads: int, eps: float, clip: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps), MLP(dim, QuickGELU() if clip else nn.GELU())
        self.ls1: nn.Module = nn.Identity() if clip else Scale(dim)
        self.ls2: nn.Module = nn.Identity() if clip else Scale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    def __init__(self, dim: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Images [n, 3, S, S], normalised -> features [n, out] of the class token: DINOv2's, or CLIP's (`clip`), projected.

    grid: patches a side that the position embeddings were trained for; for another S they are interpolated.
    """

    def __init__(self, *, dim: int, depth: int, heads: int, patch: int, grid: int, clip_dim: int | None = None) -> None:
        super().__init__()
        clip = clip_dim is not None
        eps = 1e-5 if clip else 1e-6
        self.grid = grid
        self.out_dim = dim if clip_dim is None else clip_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, dim))
        self.patch_embed = Patches(dim, patch, bias=not clip)
        self.norm_pre = nn.LayerNorm(dim, eps) if clip else nn.Identity()
        self.blocks = nn.ModuleList([Block(dim, heads, eps, clip) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, eps)
        self.head = nn.Identity() if clip_dim is None else nn.Linear(dim, clip_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        positions = self.positions(round(x.shape[1] ** 0.5))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + positions
        x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))

    def positions(self, side: int) -> Tensor:
        """Position embeddings [1, 1 + side^2, dim]."""
        if side == self.grid:
            return self.pos_embed
        patches = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        # The scale with its 0.1 is DINOv2's own; the features were published with it.
        scale = (side + 0.1) / self.grid
        patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


CLIP_NAMES = (
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("conv1.", "patch_embed.proj."),
    ("transformer.resblocks.", "blocks."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
"""What OpenAI's files call things, and what they are called here."""


def from_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of CLIP's image network (`visual.`) in this module's names, in float32; KeyError where some lack."""
    visual = {name.removeprefix("visual."): x.float() for name, x in state.items() if name.startswith("visual.")}
    named = {
        "cls_token": visual.pop("class_embedding")[None, None],
        "pos_embed": visual.pop("positional_embedding")[None],
        "head.weight": visual.pop("proj").T.contiguous(),
    }
    for name, x in visual.items():
        for theirs, ours in CLIP_NAMES:
            name = name.replace(theirs, ours)
        named[name] = x
    return named
