"""The training loop of WGAN-GP: `training_steps`, which the wgan entry point iterates over, and `train` for a notebook.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", Algorithm 1.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.images import to_uint8
from models.gan.ema import GeneratorEMA
from models.gan.step import critic_step_gradients, generator_step_gradients
from training.optimizer import restore_optimizer
from training.processes import Processes, average_gradients

METRICS = (
    "critic_loss",
    "gradient_penalty",
    "wasserstein_estimate",
    "input_gradient_norm",
    "critic_gradient_norm",
    "generator_loss",
    "generator_gradient_norm",
)


class Training:
    """Everything that a training step changes: networks, optimisers, average, randomness and the count of steps.

    `G` and `D` are trained in place. Latent codes and interpolation weights come from one CPU generator and are drawn
    for the whole batch in every process, so that the result does not depend on how many processes share it.
    """

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        *,
        nz: int = 128,
        lr_generator: float = 2e-4,
        lr_critic: float = 2e-4,
        betas_generator: tuple[float, float] = (0.0, 0.9),
        betas_critic: tuple[float, float] = (0.0, 0.9),
        decay_steps: int | None = None,
        ema_decay: float = 0.999,
        bf16: bool = False,
        seed: int = 0,
    ) -> None:
        self.G, self.D = G, D
        self.nz, self.bf16, self.decay_steps = nz, bf16, decay_steps
        self.ema = GeneratorEMA(G, ema_decay)
        # fused: one kernel for all tensors, the same update to rounding.
        self.optimizer_G = torch.optim.Adam(G.parameters(), lr=lr_generator, betas=betas_generator, fused=True)
        self.optimizer_D = torch.optim.Adam(D.parameters(), lr=lr_critic, betas=betas_critic, fused=True)
        self._learning_rates = (lr_generator, lr_critic)
        self.random = torch.Generator().manual_seed(seed)
        self.step = 0

    def set_learning_rates(self) -> None:
        """Linear decay to zero at `decay_steps`, or constant."""
        factor = 1.0 if self.decay_steps is None else max(0.0, 1 - self.step / self.decay_steps)
        for optimizer, rate in zip((self.optimizer_G, self.optimizer_D), self._learning_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "random": self.random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.G.load_state_dict(state["G"])
        self.D.load_state_dict(state["D"])
        self.ema.model.load_state_dict(state["ema"])
        restore_optimizer(self.optimizer_G, state["optimizer_G"])
        restore_optimizer(self.optimizer_D, state["optimizer_D"])
        self.random.set_state(state["random"])


def training_steps(
    training: Training,
    dataloader: Iterable[Any],
    n_dis: int,
    gp_scale: float,
    steps: int,
    processes: Processes | None = None,
) -> Iterator[Tensor]:
    """Train until `steps` generator updates are done; give the METRICS of each step, on the device, not waited for.

    WGAN-GP, Algorithm 1: `n_dis` critic updates on loss_D + gp_scale * loss_GP, then one generator update on loss_G.

    `dataloader` gives image batches [N, 3, H, W] in [-1, 1] (or pairs whose first entry is one) on the networks'
    device, endless, or to be iterated over again and again.
    """
    G, D = training.G, training.D
    processes = processes or Processes(rank=0, world_size=1, device=next(D.parameters()).device)
    batches = _endless(dataloader)
    while training.step < steps:
        training.set_learning_rates()
        critic_terms = []
        for _ in range(n_dis):
            x_real = next(batches)
            z = _latent_codes(training, len(x_real), processes)
            alpha = _shared_random(training, len(x_real), processes, torch.rand)
            with torch.no_grad(), _autocast(training.bf16, processes.device):
                x_fake = G(z).float()
            terms = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=gp_scale, bf16=training.bf16)
            average_gradients(D)
            norm = nn.utils.get_total_norm([p.grad for p in D.parameters() if p.grad is not None])
            training.optimizer_D.step()
            critic_terms.append(torch.stack([terms.loss, terms.penalty, terms.wasserstein, terms.gradient_norm, norm]))

        z = _latent_codes(training, len(x_real), processes)
        loss = generator_step_gradients(G, D, z, bf16=training.bf16)
        average_gradients(G)
        norm = nn.utils.get_total_norm([p.grad for p in G.parameters() if p.grad is not None])
        training.optimizer_G.step()
        training.step += 1
        training.ema.update(G, training.step)
        yield torch.cat([torch.stack(critic_terms).mean(0), torch.stack([loss, norm])])


def train(
    G: nn.Module, D: nn.Module, dataloader: Iterable[Any], n_dis: int, gp_scale: float, steps: int = 100_000
) -> Training:
    """Train `G` and `D` in place with the exercise's settings: all of `training_steps` in one call."""
    training = Training(G, D)
    for _ in training_steps(training, dataloader, n_dis=n_dis, gp_scale=gp_scale, steps=steps):
        pass
    return training


def _endless(dataloader: Iterable[Any]) -> Iterator[Tensor]:
    """Image batches of `dataloader`, started anew whenever it ends."""
    while True:
        empty = True
        for batch in dataloader:
            empty = False
            yield batch if isinstance(batch, Tensor) else batch[0]
        if empty:
            raise ValueError("the dataloader gives no batch: has it fewer images than one batch, with drop_last?")


def _shared_random(
    training: Training, n: int, processes: Processes, draw: Callable[..., Tensor], *shape: int
) -> Tensor:
    """This process's n rows of a draw for the whole batch, which every process makes alike."""
    values = draw(n * processes.world_size, *shape, generator=training.random)
    return values[processes.rank * n :][:n].to(processes.device, non_blocking=True)


def _latent_codes(training: Training, n: int, processes: Processes) -> Tensor:
    return _shared_random(training, n, processes, torch.randn, training.nz)


def _autocast(bf16: bool, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


@torch.no_grad()
def sample_images(G: nn.Module, z: Tensor) -> np.ndarray:
    """Images [n, 3, H, W] uint8 that `G`, in eval mode, makes of the latent codes `z` [n, nz]."""
    was_training = G.training
    G.eval()
    images = torch.cat([to_uint8(G(part)) for part in z.split(64)]).cpu()
    G.train(was_training)
    return images.numpy()
