"""How far this project's WGAN-GP is from torch-mimicry's own modules and from the plain definition, on equal weights,
in float64.

    python -m benchmarks.wgan_parity

Per image size, the largest relative difference (of norms; every parameter's gradient on its own) of G's output in train
and eval mode, D's output, both losses, the penalty, their gradients; and of the hand-written steps
(`models/gan/step.py`) from automatic differentiation. The penalty is compared with alpha as torch-mimicry draws it. The
last line is JSON; it has no ratios of time.
"""

import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.gan import mimicry
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import IMAGE_SIZES, Critic, Generator
from models.gan.step import critic_step_gradients, generator_step_gradients

WIDTHS = {32: 32, 48: 64, 64: 64, 128: 32}
N, NZ = 4, 16


def difference(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|; 0 where both are zero."""
    return ((ours - theirs).norm() / theirs.norm().clamp_min(1e-300)).item()


def largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Over the tensors of two networks. One that is zero but for rounding (the gradient of a bias before a batch norm,
    or of the critic's last bias) is measured against a thousandth of the network's largest."""
    scale = max(b.norm().item() for b in theirs) / 1000
    return max((a - b).norm().item() / max(b.norm().item(), scale) for a, b in zip(ours, theirs, strict=True))


def gradients(loss: Tensor, net: nn.Module) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)


def compare(size: int) -> dict[str, float]:
    their_G, their_D = (net.double() for net in mimicry.build_networks(size, NZ, WIDTHS[size], WIDTHS[size]))
    G, D = Generator(size, NZ, WIDTHS[size]).double(), Critic(size, WIDTHS[size]).double()
    G.load_state_dict(their_G.state_dict())
    D.load_state_dict(their_D.state_dict())
    z = torch.randn(N, NZ, dtype=torch.float64)
    x_real = torch.rand(N, 3, size, size, dtype=torch.float64) * 2 - 1

    rows = {}
    for mode in ("train", "eval"):
        for net in (G, their_G):
            net.train(mode == "train")
        ours, theirs = G(z), their_G(z)
        rows[f"G(z), {mode} mode"] = difference(ours, theirs)
        our_loss, their_loss = loss_G(D(ours)), their_G.compute_gan_loss(their_D(theirs))  # type: ignore[operator]
        rows[f"gradient of loss_G, {mode} mode"] = largest(gradients(our_loss, G), gradients(their_loss, their_G))
    x_fake = theirs.detach()

    rows["D(x)"] = difference(D(x_real), their_D(x_real.clone()))
    our_loss = loss_D(D(x_fake), D(x_real))
    their_loss = their_D.compute_gan_loss(their_D(x_real.clone()), their_D(x_fake.clone()))  # type: ignore[operator]
    rows["loss_D"] = difference(our_loss.detach(), their_loss.detach())
    rows["gradient of loss_D"] = largest(gradients(our_loss, D), gradients(their_loss, their_D))

    random_state = torch.get_rng_state()
    alpha = torch.rand(N, 1).squeeze(1)
    torch.set_rng_state(random_state)
    their_penalty = their_D.compute_gradient_penalty_loss(x_real, x_fake, gp_scale=1.0)  # type: ignore[operator]
    our_penalty = loss_GP(x_fake, x_real, D, alpha=alpha)
    rows["loss_GP"] = difference(our_penalty.detach(), their_penalty.detach())
    rows["gradient of loss_GP"] = largest(gradients(our_penalty, D), gradients(their_penalty, their_D))

    loss = loss_D(D(x_fake), D(x_real)) + 10 * loss_GP(x_fake, x_real, D, alpha=alpha)
    plain = gradients(loss, D)
    critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0)
    stepped = [parameter.grad for parameter in D.parameters() if parameter.grad is not None]
    rows["fast critic step, gradient"] = largest(stepped, plain)
    G.train()
    plain = gradients(loss_G(D(G(z))), G)
    generator_step_gradients(G, D, z)
    rows["fast generator step, gradient"] = largest([p.grad for p in G.parameters() if p.grad is not None], plain)
    return rows


def main() -> None:
    torch.manual_seed(0)
    tables = {size: compare(size) for size in IMAGE_SIZES}
    print(f"{'largest relative difference':36}" + "".join(f"{f'{size} px':>10}" for size in IMAGE_SIZES))
    for name in tables[IMAGE_SIZES[0]]:
        print(f"{name:36}" + "".join(f"{tables[size][name]:10.0e}" for size in IMAGE_SIZES))
    conditions = {
        "dtype": "float64",
        "widths": WIDTHS,
        "batch_size": N,
        "torch": torch.__version__,
        "differences": tables,
    }
    print(json.dumps({"name": "wgan_parity", "ratios": {}, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    main()
