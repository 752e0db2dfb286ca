"""This project's networks beside torch-mimicry's own modules, on the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.gan import mimicry
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import CRITIC_PLANS, GENERATOR_PLANS, IMAGE_SIZES, Critic, Generator
from tests.conftest import ROOT

WIDTHS = {32: (8, 8), 48: (16, 16), 64: (32, 32), 128: (16, 16)}  # small, and with every channel count above zero


def pair(size: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """(our G, our D, their G, their D) in float64 with the same weights."""
    ngf, ndf = WIDTHS[size]
    their_G, their_D = (net.double() for net in mimicry.build_networks(size, nz=12, ngf=ngf, ndf=ndf))
    our_G, our_D = Generator(size, 12, ngf).double(), Critic(size, ndf).double()
    our_G.load_state_dict(their_G.state_dict())
    our_D.load_state_dict(their_D.state_dict())
    return our_G, our_D, their_G, their_D


def gradients(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, atol=1e-12, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_outputs_losses_penalty_and_every_gradient_are_mimicrys(size: int, training: bool) -> None:
    our_G, our_D, their_G, their_D = pair(size)
    for net in (our_G, their_G):
        net.train(training)
    generator = torch.Generator().manual_seed(size)
    z = torch.randn(3, 12, dtype=torch.float64, generator=generator)
    x_real = torch.rand(3, 3, size, size, dtype=torch.float64, generator=generator) * 2 - 1

    ours, theirs = our_G(z), their_G(z)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    assert_same(dict(our_G.named_buffers()), dict(their_G.named_buffers()))
    assert_same(gradients(loss_G(our_D(ours)), our_G), gradients(their_G.compute_gan_loss(their_D(theirs)), their_G))  # type: ignore[operator]

    x_fake = theirs.detach()
    torch.testing.assert_close(our_D(x_real), their_D(x_real.clone()), atol=1e-12, rtol=1e-10)
    our_loss = loss_D(our_D(x_fake), our_D(x_real))
    their_loss = their_D.compute_gan_loss(output_real=their_D(x_real.clone()), output_fake=their_D(x_fake.clone()))  # type: ignore[operator]
    torch.testing.assert_close(our_loss, their_loss, atol=1e-12, rtol=1e-10)
    assert_same(gradients(our_loss, our_D), gradients(their_loss, their_D))

    # Theirs draws alpha [N, 1] from the global generator, in float32; ours is given the same.
    torch.manual_seed(9)
    their_penalty = their_D.compute_gradient_penalty_loss(x_real, x_fake, gp_scale=10.0)  # type: ignore[operator]
    torch.manual_seed(9)
    our_penalty = 10 * loss_GP(x_fake, x_real, our_D, alpha=torch.rand(3, 1).squeeze(1))
    torch.testing.assert_close(our_penalty, their_penalty, atol=1e-12, rtol=1e-6)
    # its last bias and the shortcuts of blocks without one have no gradient under the penalty
    names = [name for name, _ in our_D.named_parameters() if name.endswith("weight")]
    for ours_, theirs_ in zip(
        torch.autograd.grad(our_penalty, [our_D.get_parameter(name) for name in names]),
        torch.autograd.grad(their_penalty, [their_D.get_parameter(name) for name in names]),
        strict=True,
    ):
        torch.testing.assert_close(ours_, theirs_, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_names_shapes_and_default_widths_are_mimicrys(size: int) -> None:
    with torch.device("meta"):
        ours = (Generator(size), Critic(size))
        generator_class, critic_class = mimicry.network_classes(size)
    theirs = (generator_class(), critic_class())
    for our_net, their_net in zip(ours, theirs, strict=True):
        our_shapes = {name: value.shape for name, value in our_net.state_dict().items()}
        assert our_shapes == {name: value.shape for name, value in their_net.state_dict().items()}
    assert theirs[0].ngf == GENERATOR_PLANS[size][1]
    assert theirs[1].ndf == CRITIC_PLANS[size][0]


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_initialisation_has_mimicrys_spread(size: int) -> None:
    ngf, ndf = (64, 64)
    for ours, theirs in zip(
        (Generator(size, 128, ngf), Critic(size, ndf)), mimicry.build_networks(size, 128, ngf, ndf), strict=True
    ):
        for name, value in theirs.state_dict().items():
            if name.endswith("weight") and value.numel() > 500:
                assert ours.state_dict()[name].std().item() == pytest.approx(value.std().item(), rel=0.2), name


def test_checkpoints_of_mimicrys_trainer_load(tmp_path: Path) -> None:
    their_G, _ = mimicry.build_networks(32, nz=8, ngf=8, ndf=8)
    optimizer = torch.optim.Adam(their_G.parameters(), 2e-4, (0.0, 0.9))
    their_G.save_checkpoint(directory=str(tmp_path / "netG"), global_step=7, optimizer=optimizer)  # type: ignore[operator]
    state, step = mimicry.load_checkpoint(tmp_path / "netG" / "netG_7_steps.pth")
    G = Generator(32, 8, 8)
    G.load_state_dict(state)
    z = torch.randn(2, 8)
    assert step == 7
    torch.testing.assert_close(G.eval()(z), their_G.eval()(z))
    (tmp_path / "other.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"other\.pth is not a checkpoint of torch-mimicry"):
        mimicry.load_checkpoint(tmp_path / "other.pth")


def test_only_the_network_modules_are_imported() -> None:
    code = (
        "import sys; from models.gan import mimicry; mimicry.build_networks(32, 8, 8, 8); "
        "unwanted = ('tensorflow', 'tensorboard', 'skimage', 'torch_mimicry', 'torch_mimicry.training'); "
        "print([m for m in unwanted if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_size() -> None:
    with pytest.raises(ValueError, match="image_size=65"):
        mimicry.network_classes(65)
