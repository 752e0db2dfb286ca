r"""The two gradient steps of WGAN-GP, exact and with less work than automatic differentiation does.

`critic_step_gradients` leaves in D's `.grad`s the gradient of

    L = loss_D + gp_scale loss_GP = mean_i D(fake_i) - mean_i D(real_i) + gp_scale mean_i (|g_i| - 1)^2,
    g_i = grad_x D(x_i),

with x_i on the line between real_i and fake_i. Automatic differentiation gets there by differentiating twice. This
module uses that the critic is piecewise linear in its input: with the ReLU masks of x_i held (their derivative is zero
almost everywhere), D is a product of linear maps, and so is its gradient. Write layer l as a_l = W_l h_(l-1),
h_l = m_l * a_l (mask m_l), and c_l for the cotangent dD/da_l that the backward pass from D(x_i) computes on its way
down to g_i. For v_i held constant,

    v_i = d L / d g_i = gp_scale (2/N) (|g_i| - 1) g_i / |g_i|,        d L_GP / d W_l = d/dW_l sum_i <v_i, g_i>,

and <v_i, g_i> is the derivative of D at x_i in direction v_i. Push v_i forward through the linearised layers,
t_l = m_l * (W_l t_(l-1)) with t_0 = v_i: the derivative is linear in every W_l and c_l is its cotangent there, so

    d/dW_l <v_i, g_i> = c_l (outer product, summed as a convolution's weight gradient does) t_(l-1).

The cotangents c_l exist already. So the penalty costs four convolution passes (forward, input gradient, tangents,
weight gradient) where double backward takes six, and biases get nothing from it. All is first order: no graph is kept,
and gradients can be averaged over processes afterwards.

One forward and one backward pass serve the concatenated batch [fake, real, interpolated] (3N). The tangents then
overwrite the activations of the interpolated third, which leaves one weight-gradient convolution per layer for all 3N.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan.losses import gradient_norms, interpolate, loss_D, loss_G
from models.gan.networks import Critic, CriticBlock, pooled_kernel


class CriticTerms(NamedTuple):
    """Scalars of one critic step, on the device: nothing has waited for them."""

    loss: Tensor  # loss_D + gp_scale * penalty
    penalty: Tensor  # loss_GP, unscaled
    wasserstein: Tensor  # mean D(real) - mean D(fake)
    gradient_norm: Tensor  # mean |grad D| at the interpolated images


def critic_step_gradients(
    D: nn.Module, x_real: Tensor, x_fake: Tensor, alpha: Tensor, *, gp_scale: float, bf16: bool = False
) -> CriticTerms:
    """Put the gradient of loss_D + gp_scale loss_GP into the `.grad` of D's parameters (replacing what was there).

    Args:
        D: a Critic takes the path of this module's docstring; any other module is differentiated twice.
        x_real, x_fake: images [N, 3, H, W] in [-1, 1].
        alpha: interpolation weights [N] in [0, 1].
        bf16: compute loss_D under bfloat16 autocast; the penalty stays in float32 (TF32 where the caller allows it on a
        GPU),
            since |g| - 1 cancels near 1.
    """
    if x_real.shape != x_fake.shape or alpha.shape != x_real.shape[:1]:
        raise ValueError(
            f"x_real {list(x_real.shape)} and x_fake {list(x_fake.shape)} must be equal, alpha {list(alpha.shape)} [N]"
        )
    if not isinstance(D, Critic):
        return _by_double_backward(D, x_real, x_fake, alpha, gp_scale=gp_scale, bf16=bf16)
    D.zero_grad(set_to_none=True)
    x_between = interpolate(x_fake, x_real, alpha)
    if not bf16:
        return _by_hand(D, [x_fake, x_real, x_between], gp_scale)
    loss = _loss_backward(D, x_real, x_fake, bf16=True)
    terms = _by_hand(D, [x_between], gp_scale)
    return CriticTerms(loss + terms.loss, terms.penalty, -loss, terms.gradient_norm)


def generator_step_gradients(G: nn.Module, D: nn.Module, z: Tensor, bf16: bool = False) -> Tensor:
    """Put the gradient of loss_G into the `.grad` of G's parameters (replacing what was there); returns the loss
    (scalar).

    D is not touched: no weight gradients are computed for it, only the gradient at its input.
    """
    G.zero_grad(set_to_none=True)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
        x_fake = G(z)
    if isinstance(D, Critic) and not bf16:
        with torch.no_grad():
            tape = _forward(D, x_fake.detach())
            gradient = _backward(D, tape, torch.full_like(tape.values, -1 / len(z)), slice(None))
        x_fake.backward(gradient)
        return -tape.values.mean()
    for parameter in D.parameters():
        parameter.requires_grad_(False)
    try:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
            values = D(x_fake)
        loss = loss_G(values.float() if bf16 else values)
        loss.backward()
    finally:
        for parameter in D.parameters():
            parameter.requires_grad_(True)
    return loss.detach()


# --------------------------------------------------------------------------------------------------------- by autograd


def _by_double_backward(
    D: nn.Module, x_real: Tensor, x_fake: Tensor, alpha: Tensor, *, gp_scale: float, bf16: bool
) -> CriticTerms:
    D.zero_grad(set_to_none=True)
    loss = _loss_backward(D, x_real, x_fake, bf16)
    norms = gradient_norms(x_fake, x_real, D, alpha)
    penalty = ((norms - 1) ** 2).mean()
    (gp_scale * penalty).backward()
    return CriticTerms(loss + gp_scale * penalty.detach(), penalty.detach(), -loss, norms.detach().mean())


def _loss_backward(D: nn.Module, x_real: Tensor, x_fake: Tensor, bf16: bool) -> Tensor:
    with torch.autocast(x_real.device.type, torch.bfloat16, enabled=bf16):
        values = D(torch.cat([x_fake.detach(), x_real]))
    d_fake, d_real = (values.float() if bf16 else values).chunk(2)
    loss = loss_D(d_fake, d_real)
    loss.backward()
    return loss.detach()


# ------------------------------------------------------------------------------------------------------------ by hand


@dataclass
class BlockTape:
    """What one critic block leaves behind. B images; [B, C, H, W] each."""

    block: CriticBlock
    kernel: Tensor  # of the second convolution: 4x4 stride 2 where the block halves the image, else 3x3
    r: Tensor  # input of c1: relu(x), or the image in the first block
    s: Tensor  # input of c2: relu(c1(r))
    r_pooled: Tensor  # input of the shortcut's convolution
    c_out: Tensor | None = None  # cotangent of the block's output
    c_hidden: Tensor | None = None  # cotangent of c1's output


@dataclass
class Tape:
    """What the critic's forward pass leaves behind: its blocks' tapes, the last features [B, C, H, W] and the values
    [B].
    """

    blocks: list[BlockTape]
    features: Tensor
    values: Tensor


@torch.no_grad()
def _by_hand(D: Critic, parts: list[Tensor], gp_scale: float) -> CriticTerms:
    """Gradients of gp_scale loss_GP at parts[-1], and of loss_D for parts [x_fake, x_real, x_between]; added to D's
    `.grad`s.
    """
    n = len(parts[-1])
    tape = _forward(D, torch.cat(parts))
    cotangent = torch.ones_like(tape.values)
    with_loss = len(parts) == 3
    if with_loss:
        cotangent[:n] = 1 / n
        cotangent[n : 2 * n] = -1 / n
    between = slice(len(tape.values) - n, None)
    gradient = _backward(D, tape, cotangent, between)

    norm = gradient.flatten(1).norm(dim=1)
    penalty = ((norm - 1) ** 2).mean()
    # Where |g| = 0 the norm's (sub)gradient is taken as 0, as PyTorch does.
    factor = torch.where(norm > 0, (2 * gp_scale / n) * (norm - 1) / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0)
    _overwrite_with_tangents(D, tape, gradient * factor.view(-1, 1, 1, 1), between)
    _add_weight_gradients(D, tape, cotangent, between)

    loss = loss_D(tape.values[:n], tape.values[n : 2 * n]) if with_loss else torch.zeros_like(penalty)
    return CriticTerms(loss + gp_scale * penalty, penalty, -loss, norm.mean())


def _forward(D: Critic, x: Tensor) -> Tape:
    """D(x), keeping what the other passes need. The ReLUs work in place: only what follows them is needed again."""
    # channels_last spares a reordering of every activation around every convolution.
    h = x.contiguous(memory_format=torch.channels_last)
    tapes = []
    for block in D.blocks:
        kernel = pooled_kernel(block.c2.weight) if block.downsample else block.c2.weight
        r = h if block.first else h.relu_()
        s = block.c1(r).relu_()
        pooled = F.avg_pool2d(r, 2) if block.downsample else r
        h = _conv(s, kernel, block.c2.bias)
        h += pooled if block.c_sc is None else block.c_sc(pooled)
        tapes.append(BlockTape(block, kernel, r=r, s=s, r_pooled=pooled))
    features = h.relu_()
    return Tape(tapes, features, D.linear(features.mean((2, 3))).squeeze(1))


def _backward(D: Critic, tape: Tape, cotangent: Tensor, part: slice) -> Tensor:
    """Fill the tape with cotangents from those of the values [B]; returns the cotangent of the input images of
    `part`.
    """
    height, width = tape.features.shape[2:]
    c = (cotangent[:, None] * D.linear.weight / (height * width))[:, :, None, None]
    c = _mask_(c.expand_as(tape.features).contiguous(memory_format=torch.channels_last), tape.features)
    for record in reversed(tape.blocks):
        block = record.block
        record.c_out = c
        record.c_hidden = _mask_(_conv_input_gradient(c, record.s, record.kernel), record.s)
        # The image itself needs a gradient only where it is interpolated.
        rows = part if block.first else slice(None)
        c_pooled = c[rows]
        if block.c_sc is not None:
            c_pooled = _conv_input_gradient(c_pooled, record.r_pooled[rows], block.c_sc.weight)
        c = _conv_input_gradient(record.c_hidden[rows], record.r[rows], block.c1.weight)
        c += _unpool(c_pooled) if block.downsample else c_pooled
        if not block.first:
            c = _mask_(c, record.r)
    return c


def _overwrite_with_tangents(D: Critic, tape: Tape, v: Tensor, part: slice) -> None:
    """Push `v`, a direction for the images of `part`, through the linearised critic, over `part` of the tape's
    activations.
    """
    t = v
    for record in tape.blocks:
        block = record.block
        r, s = record.r[part], record.s[part]
        if block.first:
            r.copy_(t)
        else:
            _mask_(t, r, out=r)
        _mask_(_conv(r, block.c1.weight), s, out=s)
        pooled = record.r_pooled[part]
        if block.downsample:
            pooled.copy_(F.avg_pool2d(r, 2))
        t = _conv(s, record.kernel)
        t += pooled if block.c_sc is None else _conv(pooled, block.c_sc.weight)
    features = tape.features[part]
    _mask_(t, features, out=features)


def _add_weight_gradients(D: Critic, tape: Tape, cotangent: Tensor, part: slice) -> None:
    """Add to D's `.grad`s, layer by layer; biases see all images but those of `part`."""
    others = slice(0, part.start)
    for record in tape.blocks:
        block = record.block
        assert record.c_out is not None
        assert record.c_hidden is not None
        kernel_gradient = _conv_weight_gradient(record.c_out, record.s, record.kernel)
        if block.downsample:
            kernel_gradient = F.avg_pool2d(kernel_gradient, 2, stride=1)  # the adjoint of pooled_kernel
        _add_gradient(block.c2.weight, kernel_gradient)
        _add_gradient(block.c1.weight, _conv_weight_gradient(record.c_hidden, record.r, block.c1.weight))
        bias_gradient = record.c_out[others].sum((0, 2, 3))
        _add_gradient(block.c2.bias, bias_gradient)
        _add_gradient(block.c1.bias, record.c_hidden[others].sum((0, 2, 3)))
        if block.c_sc is not None:
            pooled_out = record.c_out
            _add_gradient(block.c_sc.weight, _conv_weight_gradient(pooled_out, record.r_pooled, block.c_sc.weight))
            _add_gradient(block.c_sc.bias, bias_gradient.clone())
    _add_gradient(D.linear.weight, cotangent[None] @ tape.features.mean((2, 3)))
    _add_gradient(D.linear.bias, cotangent[others].sum()[None])


def _conv(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution a kernel of this module stands for: 4x4 halves the image, 3x3 and 1x1 keep it."""
    stride, padding = _geometry(kernel)
    return F.conv2d(x, kernel, bias, stride=stride, padding=padding)


def _geometry(kernel: Tensor) -> tuple[int, int]:
    return {4: (2, 1), 3: (1, 1), 1: (1, 0)}[kernel.shape[-1]]


def _conv_input_gradient(c: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    return _conv_backward(c, x, kernel, (True, False, False))[0]


def _conv_weight_gradient(c: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    return _conv_backward(c, x, kernel, (False, True, False))[1]


def _conv_backward(
    c: Tensor, x: Tensor, kernel: Tensor, which: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding = _geometry(kernel)
    return torch.ops.aten.convolution_backward(
        c,
        x,
        kernel,
        bias_sizes=None,
        stride=[stride] * 2,
        padding=[padding] * 2,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=which,
    )


def _mask_(c: Tensor, activation: Tensor, out: Tensor | None = None) -> Tensor:
    """`c` where the ReLU that gave `activation` was open, else 0; written over `c`, or over `out` (which may be
    `activation`).

    In place, since fresh memory costs more than the arithmetic: 25 MB from the system took 43 ms, the masking 1.
    """
    return torch.ops.aten.threshold_backward.grad_input(c, activation, 0, grad_input=c if out is None else out)


def _unpool(c: Tensor) -> Tensor:
    """The adjoint of a 2x2 average pool."""
    return F.interpolate(c, scale_factor=2, mode="nearest") / 4


def _add_gradient(parameter: Tensor | None, gradient: Tensor) -> None:
    """In the parameter's own memory layout, as autograd does it: a fused Adam reads parameter and gradient side by side
    and takes no notice of their strides.
    """
    assert parameter is not None
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad += gradient
