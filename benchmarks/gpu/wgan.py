"""Part 2: a WGAN-GP step (two critic updates, one generator update) at the exercise's size, beside torch-mimicry's."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.box import Box, median_seconds, peak_megabytes, seconds_of, set_precision, start_memory
from benchmarks.wgan_step import mimicry_step, our_step
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import Critic, Generator
from models.gan.step import critic_step_gradients, generator_step_gradients

STEPS = 100_000
PRECISIONS = ("bf16", "tf32", "fp32")
TABLE = "A WGAN-GP step"
LOOP, PEER = "the trainer's loop", "torch-mimicry"

Build = Callable[[Namespace, list[Tensor], str], Callable[[], None]]
"""(sizes, batches, precision) -> a training step."""


def run(box: Box) -> None:
    sizes = (
        Namespace(image_size=32, ngf=16, ndf=16, batch_size=4)
        if box.tiny
        else Namespace(image_size=64, ngf=1024, ndf=1024, batch_size=64)
    )
    sizes.n_dis, sizes.device = 2, str(box.device)
    torch.manual_seed(0)
    sizes.weights = tuple(
        net.state_dict() for net in (Generator(sizes.image_size, ngf=sizes.ngf), Critic(sizes.image_size, sizes.ndf))
    )
    pixels = (sizes.batch_size, 3, sizes.image_size, sizes.image_size)
    batches = [torch.rand(pixels, device=box.device) * 2 - 1 for _ in range(sizes.n_dis)]
    table = Table(box)
    box.attempt("operations of a step", lambda: table.count(Step(sizes, batches, bf16=False)))
    for precision in PRECISIONS:
        box.attempt(f"a large matrix product, {precision}", partial(table.reach, precision))
    for precision in PRECISIONS:
        box.attempt(f"{LOOP}, {precision}", partial(table.add, LOOP, precision, trainers_loop, sizes, batches))
    for precision in ("tf32", "fp32"):
        box.attempt(f"{PEER}, {precision}", partial(table.add, PEER, precision, torch_mimicry, sizes, batches))
    for precision in ("tf32", "bf16"):
        for how, build in WAYS.items():
            if box.on_gpu or how not in ON_GPU:
                box.attempt(f"{how}, {precision}", partial(table.add, how, precision, build, sizes, batches))
    table.compare()


class Table:
    """The rows of this part, and what they are compared with."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.operations, self.peak = 0.0, dict.fromkeys(PRECISIONS, 0.0)
        self.seconds: dict[tuple[str, str], float] = {}

    def count(self, step: "Step") -> None:
        """Operations of the step by hand: products of matrices and convolutions."""
        with FlopCounterMode(display=False) as counter:
            step()
        self.operations = float(counter.get_total_flops())
        self.box.row("Operations of a step", gflop=round(self.operations / 1e9, 2))

    def reach(self, precision: str) -> None:
        """Operations a second of a large matrix product, what this device reaches at most in practice."""
        set_precision(precision)
        n = 512 if self.box.tiny else 8192
        a = torch.randn(n, n, device=self.box.device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        seconds_of(lambda: a @ a, self.box.device)
        self.peak[precision] = 2 * n**3 / median_seconds(lambda: a @ a, self.box.device, 5)
        self.box.row("A large matrix product", precision=precision, tflops=round(self.peak[precision] / 1e12, 3))

    def add(self, what: str, precision: str, build: "Build", sizes: Namespace, batches: list[Tensor]) -> None:
        """Time a step: the first apart, which chooses kernels and compiles."""
        device = self.box.device
        set_precision(precision)
        start_memory(device)
        step = build(sizes, batches, precision)
        first = seconds_of(step, device)
        seconds_of(step, device)
        seconds = median_seconds(step, device, 1 if self.box.tiny else 15, at_most=5.0)
        self.seconds[what, precision] = seconds
        peak = self.peak[precision]
        self.box.row(
            TABLE,
            what=what,
            precision=precision,
            ms=round(1000 * seconds, 2),
            first_s=round(first, 2),
            peak_MB=peak_megabytes(device),
            share_of_matrix_product=round(self.operations / seconds / peak, 3) if peak else None,
            hours_for_100000=round(seconds * STEPS / 3600, 2),
        )

    def compare(self) -> None:
        """Ratios to torch-mimicry in the same precision; bf16, which it doesn't have, to its TF32."""
        for (what, precision), seconds in self.seconds.items():
            theirs = self.seconds.get((PEER, "tf32" if precision == "bf16" else precision))
            if theirs is not None and what != PEER:
                bar = 6 if precision == "bf16" else 4
                self.box.row(
                    "Times as fast as torch-mimicry",
                    what=what,
                    precision=precision,
                    ratio=round(theirs / seconds, 2),
                    bar=bar,
                )


class Step:
    """A training step alone: no metrics, no average of weights; all is drawn on the device, as a graph needs it."""

    def __init__(self, sizes: Namespace, batches: list[Tensor], *, bf16: bool, capturable: bool = False) -> None:
        self.G, self.D = Generator(sizes.image_size, ngf=sizes.ngf), Critic(sizes.image_size, sizes.ndf)
        self.G.load_state_dict(sizes.weights[0])
        self.D.load_state_dict(sizes.weights[1])
        self.G, self.D = self.G.to(sizes.device), self.D.to(sizes.device)
        self.batches, self.bf16 = batches, bf16
        self.critic: Callable[..., Any] = critic_step_gradients
        self.generator: Callable[..., Any] = generator_step_gradients
        self.optimizers = [
            torch.optim.Adam(net.parameters(), 2e-4, (0.0, 0.9), fused=True, capturable=capturable)
            for net in (self.G, self.D)
        ]

    def __call__(self) -> None:
        for x_real in self.batches:
            z = torch.randn(len(x_real), 128, device=x_real.device)
            alpha = torch.rand(len(x_real), device=x_real.device)
            with torch.no_grad(), torch.autocast(x_real.device.type, torch.bfloat16, enabled=self.bf16):
                x_fake = self.G(z).float()
            self.critic(self.D, x_real, x_fake, alpha, gp_scale=10.0, bf16=self.bf16)
            self.optimizers[1].step()
        self.generator(self.G, self.D, z, bf16=self.bf16)
        self.optimizers[0].step()


def trainers_loop(sizes: Namespace, batches: list[Tensor], precision: str) -> Callable[[], None]:
    return our_step(Namespace(**vars(sizes), bf16=precision == "bf16"), batches)


def torch_mimicry(sizes: Namespace, batches: list[Tensor], precision: str) -> Callable[[], None]:
    return mimicry_step(sizes, batches)


def by_hand(sizes: Namespace, batches: list[Tensor], precision: str) -> Step:
    return Step(sizes, batches, bf16=precision == "bf16")


def by_autograd(sizes: Namespace, batches: list[Tensor], precision: str, *, memory_format: torch.memory_format) -> Step:
    """The definition, differentiated twice, in a layout of memory."""
    step = Step(sizes, [x.contiguous(memory_format=memory_format) for x in batches], bf16=precision == "bf16")
    step.G.to(memory_format=memory_format)
    step.D.to(memory_format=memory_format)

    def critic(D: nn.Module, x_real: Tensor, x_fake: Tensor, alpha: Tensor, *, gp_scale: float, bf16: bool) -> None:
        D.zero_grad()
        with torch.autocast(x_real.device.type, torch.bfloat16, enabled=bf16):
            loss = loss_D(D(x_fake), D(x_real))
        (loss + gp_scale * loss_GP(x_fake, x_real, D, alpha=alpha)).backward()

    def generator(G: nn.Module, D: nn.Module, z: Tensor, *, bf16: bool) -> None:
        G.zero_grad()
        with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
            loss = loss_G(D(G(z)))
        loss.backward()

    step.critic, step.generator = critic, generator
    return step


def compiled_generator(sizes: Namespace, batches: list[Tensor], precision: str) -> Step:
    step = by_hand(sizes, batches, precision)
    step.G.compile()
    return step


def compiled_gradients(sizes: Namespace, batches: list[Tensor], precision: str) -> Step:
    step = by_hand(sizes, batches, precision)
    step.critic, step.generator = torch.compile(step.critic), torch.compile(step.generator)
    return step


def as_graph(sizes: Namespace, batches: list[Tensor], precision: str) -> Callable[[], None]:
    """The step recorded once and replayed: the device no longer waits for Python."""
    step = Step(sizes, batches, bf16=precision == "bf16", capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are chosen and the optimisers' state is made before the recording
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


WAYS: dict[str, Build] = {
    "step alone, by hand": by_hand,
    "step alone, as a CUDA graph": as_graph,
    "step alone, autograd, channels_last": partial(by_autograd, memory_format=torch.channels_last),
    "step alone, autograd, contiguous": partial(by_autograd, memory_format=torch.contiguous_format),
    "step alone, generator compiled": compiled_generator,
    "step alone, both gradients compiled": compiled_gradients,
}
ON_GPU = ("step alone, as a CUDA graph", "step alone, generator compiled", "step alone, both gradients compiled")
"""Ways that a CPU does not have, or whose compiler takes minutes there."""
