"""Do distances in a feature network's features mean something? The table of docs/fid.md.

    python -m benchmarks.feature_meaning --train eurosat/train.zip --test eurosat/test.zip --n 1000

Two zips or folders of photographs with a folder for each class. Prints: accuracy of the five nearest neighbours on the
test images; the Fréchet distance of distorted training images to the test ones, which must grow with the distortion;
its bias in the number of images; images a second. `--checkpoints` names files of one `wgan` training, kept while it
ran: the distance of their generators' images must fall as the images get better to the eye.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.images.load import ImageSet, load_images
from evaluation.efficientnet import efficientnet_extractor
from evaluation.features import Extractor, Features, extract
from evaluation.frechet import Gaussian, frechet_of
from evaluation.images import drawn_rows
from models.gan.networks import Generator
from tracking.checkpoint import load_checkpoint
from trainers.wgan.loop import sample_images

BATCH = 50


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, uint8 [n, 3, H, W]; sigma in pixels."""
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(x.float(), (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.transpose(2, 3), groups=3)
    return F.conv2d(rows, kernel, groups=3).round().clamp(0, 255).byte()


def noisy(x: Tensor, deviation: float) -> Tensor:
    """Gaussian noise, uint8; deviation in grey values."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x.float() + deviation * noise).round().clamp(0, 255).byte()


def jpeg(x: Tensor, quality: float) -> Tensor:
    """Compressed and read again."""
    out = []
    for image in x.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
        out.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)


DISTORTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur, sigma in pixels": (blurred, (0.5, 1.0, 2.0)),
    "noise, deviation in grey values": (noisy, (8.0, 16.0, 32.0)),
    "JPEG quality": (jpeg, (50.0, 20.0, 5.0)),
}


def features_of(extractor: Extractor, x: Tensor) -> Features:
    """Features of uint8 images [n, 3, H, W]."""
    return extract(extractor, x.split(BATCH))


def some(images: ImageSet, n: int) -> tuple[Tensor, np.ndarray]:
    """n images drawn at random, uint8 [n, 3, H, W], and their classes [n]."""
    rows = drawn_rows(len(images), min(n, len(images)), 0)
    assert images.labels is not None, "a folder for each class is needed"
    return torch.from_numpy(np.array(images.pixels[rows])), images.labels[rows]


def neighbours_accuracy(train: Tensor, label: np.ndarray, test: Tensor, truth: np.ndarray, k: int = 5) -> float:
    """Accuracy of the majority of the k nearest training features, by cosine."""
    nearest = torch.cdist(F.normalize(test, dim=1), F.normalize(train, dim=1)).topk(k, largest=False).indices
    guess = torch.from_numpy(label)[nearest].mode(1).values.numpy()
    return float((guess == truth).mean())


def of_checkpoint(path: Path, extractor: Extractor, reference: Gaussian, n: int) -> tuple[int, float]:
    """(step, distance of the averaged generator's images) of a checkpoint of `wgan`."""
    state = load_checkpoint(path)
    config = state["config"]
    G = Generator(int(config["image_size"]), int(config["nz"]), int(config["ngf"]))
    G.load_state_dict(state["training"]["ema"])
    codes = torch.randn(n, int(config["nz"]), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(sample_images(G, codes))
    return int(state["training"]["step"]), frechet_of(features_of(extractor, images).x, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--n", type=int, default=1000, help="images of each")
    parser.add_argument("--cache_dir", type=Path, default=Path("cache"))
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[], help="of one training of wgan on --train")
    arguments = parser.parse_args()
    extractor = efficientnet_extractor(torch.device("cpu"))

    def load(path: Path) -> tuple[Tensor, np.ndarray]:
        images = load_images("folder", arguments.image_size, "train", data_dir=path, cache_dir=arguments.cache_dir)
        return some(images, arguments.n)

    (train, label), (test, truth) = load(arguments.train), load(arguments.test)
    began = time.monotonic()
    of_train = features_of(extractor, train)
    rate = len(train) / (time.monotonic() - began)
    of_test = features_of(extractor, test)
    reference = Gaussian.of(of_test.moments)
    plain = frechet_of(of_train.x, reference)
    figures = {"knn_accuracy": neighbours_accuracy(of_train.x, label, of_test.x, truth), "undistorted": plain}
    for what, (distort, strengths) in DISTORTIONS.items():
        for strength in strengths:
            figures[f"{what} {strength:g}"] = frechet_of(features_of(extractor, distort(train, strength)).x, reference)
    half = np.isin(label, np.unique(label)[::2])
    figures["half of the classes dropped"] = frechet_of(of_train.x[torch.from_numpy(half)], reference)
    for n in (len(train) // 4, len(train) // 2):
        figures[f"undistorted, {n} images"] = frechet_of(of_train.x[:n], reference)
    for step, distance in sorted(of_checkpoint(p, extractor, reference, len(test)) for p in arguments.checkpoints):
        figures[f"generated after {step} steps"] = distance
    print(f"{rate:.1f} images a second; chance {1 / len(np.unique(label)):.2f}\n\n| | |\n|---|---|")
    for what, value in figures.items():
        print(f"| {what} | {value:.3g} |")
    ratios = {what: value / plain for what, value in figures.items() if what != "knn_accuracy"}
    conditions = {key: str(value) for key, value in vars(arguments).items()}
    print(json.dumps({"name": "feature_meaning", "ratios": ratios, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    main()
