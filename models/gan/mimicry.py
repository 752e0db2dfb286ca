"""torch-mimicry's own WGAN-GP networks, without the rest of the package.

`import torch_mimicry` imports TensorFlow, TensorBoard and scikit-image, and beside a current PyTorch may abort the
process. Its
network modules need only torch: they are imported here under empty parent packages that point at the installed files.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.gan.networks import CRITIC_PLANS, GENERATOR_PLANS, IMAGE_SIZES

# Packages whose __init__ would import all of torch-mimicry.
_EMPTIED = ("torch_mimicry", "torch_mimicry.nets")


def network_classes(image_size: int) -> tuple[type[nn.Module], type[nn.Module]]:
    """torch-mimicry's (generator class, critic class) at 32, 48, 64 or 128 pixels.

    Raises ImportError with what to do where the package is not installed.
    """
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size={image_size}: there are networks for {', '.join(map(str, IMAGE_SIZES))} pixels")
    if "torch_mimicry.nets.wgan_gp" not in sys.modules:
        found = importlib.util.find_spec("torch_mimicry")
        if found is None or not found.submodule_search_locations:
            raise ImportError("torch-mimicry is not installed: pip install --no-deps torch-mimicry==0.1.16")
        root = Path(next(iter(found.submodule_search_locations)))
        added = [name for name in _EMPTIED if name not in sys.modules]
        for name in added:
            package = ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        try:
            importlib.import_module("torch_mimicry.nets.wgan_gp")
        finally:
            # Without the empty parents, `import torch_mimicry` elsewhere still gets the real package.
            for name in added:
                del sys.modules[name]
    module = sys.modules["torch_mimicry.nets.wgan_gp"]
    return getattr(module, f"WGANGPGenerator{image_size}"), getattr(module, f"WGANGPDiscriminator{image_size}")


def build_networks(
    image_size: int, nz: int = 128, ngf: int | None = None, ndf: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """torch-mimicry's generator and critic; None for its own widths."""
    generator_class, critic_class = network_classes(image_size)
    generator = generator_class(nz=nz, ngf=ngf or GENERATOR_PLANS[image_size][1])
    return generator, critic_class(ndf=ndf or CRITIC_PLANS[image_size][0])


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], int]:
    """(state dict, step) of a checkpoint that torch-mimicry's trainer wrote (`netG_100000_steps.pth`).

    Only tensors and plain values are unpickled. Raises ValueError for a file of another kind.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
        return dict(saved["model_state_dict"]), int(saved["global_step"])
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of torch-mimicry: {' '.join(str(error).split())[:150]}") from None
