"""Part 1: whether the fast paths are right on this device, in each precision."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.box import Box, set_precision
from models.attention.spec import MECHANISMS, AttentionSpec
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import Critic, Generator
from models.gan.step import critic_step_gradients, generator_step_gradients
from models.transformer import MultiHeadAttentionBlock
from trainers.wgan.loop import METRICS, Training, training_steps
from training.processes import Processes

GP_SCALE = 10.0
HALF = {torch.bfloat16: 0.03, torch.float16: 0.01}
"""Largest relative error of an attention block in half precision."""


def run(box: Box) -> None:
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        box.attempt(f"WGAN-GP step by hand, {dtype}", partial(wgan_step, box, dtype, bound))
    for name in MECHANISMS:
        box.attempt(f"attention {name}, fp32", partial(attention, box, name))
    box.attempt("200 steps in each precision", partial(precisions, box))
    for name in MECHANISMS:
        for dtype in HALF:
            box.attempt(f"attention {name}, {dtype}", partial(half_precision, box, name, dtype))
    for backend in (
        SDPBackend.MATH,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ):
        box.attempt(f"SDPA {backend.name}, a query that sees no key", partial(masked_row, box, backend))
    box.attempt("scatter in bf16", partial(scatter, box))
    box.attempt("save, resume, compare", partial(resume, box))
    if box.on_gpu:
        box.attempt("tests marked gpu", partial(marked_tests, box))


def check(box: Box, what: str, dtype: torch.dtype, difference: float, bound: float) -> None:
    box.row(
        "Right?",
        check=what,
        dtype=str(dtype).removeprefix("torch."),
        difference=float(f"{difference:.2e}"),
        bound=bound,
        right=difference <= bound,
    )


def largest_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest |a - b| / |b| of pairs of tensors."""
    pairs = zip(got, expected, strict=True)
    return max(
        float((a.double().cpu() - b.double().cpu()).norm() / b.double().cpu().norm().clamp(min=1e-30)) for a, b in pairs
    )


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def moved_by_adam(module: nn.Module, fused: bool) -> list[Tensor]:
    """How far a step of Adam moves each parameter, in copies. eps is 1, so that no sign is decided by rounding."""
    copies = [p.detach().clone() for p in module.parameters()]
    for copy, parameter in zip(copies, module.parameters(), strict=True):
        copy.grad = parameter.grad
    torch.optim.Adam(copies, lr=1.0, betas=(0.0, 0.9), eps=1.0, fused=fused, foreach=False).step()
    return [copy - p.detach() for copy, p in zip(copies, module.parameters(), strict=True)]


def wgan_step(box: Box, dtype: torch.dtype, bound: float) -> None:
    """The critic's and the generator's gradients by hand against automatic differentiation."""
    set_precision("fp32")
    torch.manual_seed(0)
    width, n = (16, 4) if box.tiny else (128, 32)
    G = Generator(32, 16, width).to(box.device, dtype)
    D = Critic(32, width).to(box.device, dtype)
    x_real, x_fake = (torch.rand(2, n, 3, 32, 32, device=box.device, dtype=dtype) * 2 - 1).unbind(0)
    alpha, z = torch.rand(n, device=box.device, dtype=dtype), torch.randn(n, 16, device=box.device, dtype=dtype)
    critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=GP_SCALE)
    by_hand, moved = gradients_of(D), moved_by_adam(D, fused=True)
    D.zero_grad()
    loss = loss_D(D(x_fake), D(x_real)) + GP_SCALE * loss_GP(x_fake, x_real, D, alpha=alpha)
    loss.backward()
    check(box, "critic's step", dtype, difference=largest_difference(by_hand, gradients_of(D)), bound=bound)
    check(
        box,
        "the critic moved by Adam",
        dtype,
        difference=largest_difference(moved, moved_by_adam(D, fused=False)),
        bound=bound,
    )
    generator_step_gradients(G, D, z)
    by_hand = gradients_of(G)
    G.zero_grad()
    loss_G(D(G(z))).backward()
    check(box, "generator's step", dtype, difference=largest_difference(by_hand, gradients_of(G)), bound=bound)


def block_of(name: str, length: int) -> MultiHeadAttentionBlock:
    torch.manual_seed(0)
    spec = AttentionSpec.for_length(name, length)
    return MultiHeadAttentionBlock(64, 4, spec, generator=torch.Generator().manual_seed(0)).eval()


def attention(box: Box, name: str) -> None:
    """A block's output and gradients on the device in float32 against float64 on the CPU; the second sample is padded,
    the third is padding alone."""
    set_precision("fp32")
    length = 40 if box.tiny else 300
    block = block_of(name, length)
    x = torch.randn(3, length, 64)
    mask = None
    if name != "fourier":  # whose frequencies depend on the padded length
        mask = torch.arange(length)[None] >= torch.tensor([[length], [length - 7], [0]])

    def results(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        moved = block.to(device, dtype)
        moved.zero_grad()
        own = x.to(device, dtype).requires_grad_()
        out = moved(own, key_padding_mask=None if mask is None else mask.to(device))[0]
        seen = out if mask is None else out[~mask.to(device)]
        seen.square().sum().backward()
        assert own.grad is not None
        return [seen.detach(), own.grad, *gradients_of(moved)]

    expected = results(torch.device("cpu"), torch.float64)
    check(
        box,
        f"attention {name}",
        torch.float32,
        difference=largest_difference(results(box.device, torch.float32), expected),
        bound=2e-3,
    )


def half_precision(box: Box, name: str, dtype: torch.dtype) -> None:
    """A block's output under autocast against float64 on the CPU."""
    length = 40 if box.tiny else 300
    block, x = block_of(name, length), torch.randn(2, length, 64)
    with torch.no_grad():
        expected = block.double()(x.double())[0]
        with torch.autocast(box.device.type, dtype):
            out = block.float().to(box.device)(x.to(box.device))[0]
    check(
        box, f"attention {name}, autocast", dtype, difference=largest_difference([out], [expected]), bound=HALF[dtype]
    )


def masked_row(box: Box, backend: SDPBackend) -> None:
    """What PyTorch's own kernel gives a query that sees no key: the blocks of this project must not hand on its NaN."""
    q, k, v = torch.randn(3, 1, 4, 64, 64, device=box.device, dtype=torch.bfloat16).unbind(0)
    sees = torch.ones(1, 1, 64, 64, dtype=torch.bool, device=box.device)
    sees[:, :, 3] = False
    with sdpa_kernel([backend]):
        out = scaled_dot_product_attention(q, k, v, attn_mask=sees)[:, :, 3]
    value = "zeros" if not out.any() else "numbers" if out.isfinite().all() else "NaN"
    box.row("A query that sees no key, in SDPA itself", backend=backend.name, gets=value)


def scatter(box: Box) -> None:
    """4,096 values added into four sums, in float32 and in bf16."""
    values, index = torch.rand(4096, device=box.device), torch.arange(4096, device=box.device) % 4
    exact = torch.zeros(4, dtype=torch.float64, device=box.device).scatter_add_(0, index, values.double())
    for dtype in (torch.float32, torch.bfloat16):
        sums = torch.zeros(4, dtype=dtype, device=box.device).scatter_add_(0, index, values.to(dtype))
        box.row(
            "scatter_add of 1,024 values into each sum",
            dtype=str(dtype).removeprefix("torch."),
            relative_error=float(f"{largest_difference([sums], [exact]):.1e}"),
        )


def fresh_training(box: Box, bf16: bool = False) -> tuple[Training, list[Tensor]]:
    """A small WGAN-GP and 16 batches of smooth images, the same in every call."""
    torch.manual_seed(0)
    width, n = (16, 4) if box.tiny else (128, 64)
    training = Training(Generator(32, 16, width).to(box.device), Critic(32, width).to(box.device), nz=16, bf16=bf16)
    coarse = torch.rand(16, n, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images = [nn.functional.interpolate(x, size=32, mode="bilinear").to(box.device) for x in coarse]
    return training, images


def train(box: Box, training: Training, images: list[Tensor], until: int) -> list[Tensor]:
    """Train on until so many steps are done; each step's METRICS."""
    batches = islice(cycle(images), training.step * 2, None)
    processes = Processes(0, 1, box.device)
    return list(training_steps(training, batches, n_dis=2, gp_scale=GP_SCALE, steps=until, processes=processes))


def precisions(box: Box) -> None:
    """The same training in fp32, TF32 and bf16: means over the last half of its steps, and how far the norms of the
    gradients are from those of fp32."""
    steps = 4 if box.tiny else 200
    reference: Tensor | None = None
    for precision in ("fp32", "tf32", "bf16"):
        set_precision(precision)
        training, images = fresh_training(box, bf16=precision == "bf16")
        points = torch.stack(train(box, training, images, steps)).cpu()
        means = points[steps // 2 :].mean(0)
        reference = means if reference is None else reference
        values = {metric: round(float(value), 4) for metric, value in zip(METRICS, means, strict=True)}
        norm = METRICS.index("critic_gradient_norm")
        values["critic_gradient_norm_over_fp32"] = round(float(means[norm] / reference[norm]), 3)
        box.row(f"{steps} steps in each precision, means of the last half", precision=precision, **values)


def resume(box: Box) -> None:
    """Weights after a training that was saved and loaded half way, against one that was not."""
    set_precision("tf32")
    half = 2 if box.tiny else 10
    straight, images = fresh_training(box)
    train(box, straight, images, 2 * half)
    first, _ = fresh_training(box)
    train(box, first, images, half)
    path = box.out / "resume.pt"
    torch.save(first.state_dict(), path)
    second, _ = fresh_training(box)
    second.load_state_dict(torch.load(path, weights_only=True))
    path.unlink()
    train(box, second, images, 2 * half)
    difference = largest_difference(list(second.G.parameters()), list(straight.G.parameters()))
    check(
        box,
        "saved, resumed: the generator's weights",
        torch.float32,
        difference=difference,
        bound=0.0 if not box.on_gpu else 1e-2,
    )


def marked_tests(box: Box) -> None:
    """The project's tests that need a CUDA device."""
    if importlib.util.find_spec("pytest") is None:
        raise ModuleNotFoundError("pytest is not installed: the tests marked gpu were not run")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, box.left()))
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    box.row("Tests marked gpu", exit_status=done.returncode, last_line=last)
