"""Inception features and the Fréchet distance: this project beside its peers, on the same images and weights.

The peers: torch-fidelity, torchmetrics, and pytorch-fid where it is installed (pip install --no-deps
pytorch-fid==0.3.0).

    python -m benchmarks.fid --n 128
    python -m benchmarks.fid --n 2112 --rounds 1 --peers torch-fidelity    # more images than dimensions: a regular
    covariance python -m benchmarks.fid --n 20000 --weights weights-inception-2015-12-05-6726825d.pth --device cuda

Every side turns two sets of uint8 images into features, moments and the distance, after one batch to warm up.
Without `--weights` the network is randomly initialised, its batch norms' statistics measured as in a trained one. The
last line is JSON; a ratio above 1 means that this project is faster.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.features import Extractor, build_inception, extract, wrap_inception
from evaluation.frechet import Gaussian, frechet_distance


def random_inception_state(seed: int = 0) -> dict[str, Tensor]:
    """Weights for torch-fidelity's Inception under which signals neither vanish nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The class insists on reading a file when it is made.
    with (
        unittest.mock.patch("torch.load", return_value={}),
        unittest.mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        if value.dim() == 4:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif value.is_floating_point():
            state[name] = torch.randn(value.shape, generator=generator) * 0.05
        else:
            state[name] = value
    return state


def measure_batch_norms(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """`state` with the batch norms' means and variances that uint8 `images` [n, 3, h, w] have under it.

    With others one direction carries nearly all of the features' variance (at 256 images the smallest eigenvalue is
    1.6e-5 of the largest, so 3.9e-4), and the distance of any implementation that takes roots of eigenvalues is mostly
    that of its rounding.
    """
    network = build_inception(state)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        network(images)
    return network.state_dict()


def sample_images(n: int, size: int, seed: int) -> Tensor:
    """Smooth random pictures, uint8 [n, 3, size, size]."""
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    x = nn.functional.interpolate(x, (size, size), mode="bicubic")
    return ((x * 0.4 + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def ours(extractor: Extractor, batch_size: int) -> Callable[[Tensor, Tensor], float]:
    def distance(a: Tensor, b: Tensor) -> float:
        sides = [Gaussian.of(extract(extractor, x.split(batch_size)).moments) for x in (a, b)]
        return frechet_distance(*sides)

    return distance


def torch_fidelity_distance(
    path: str, batch_size: int, cuda: bool, seen: list[Tensor]
) -> Callable[[Tensor, Tensor], float]:
    """Its distance; `seen` holds the features of both sides of the last call."""
    from torch_fidelity import calculate_metrics, metric_fid

    statistics_of = metric_fid.fid_features_to_statistics

    def noted(features: Tensor) -> dict[str, np.ndarray]:
        seen.append(features)
        return statistics_of(features)

    def distance(a: Tensor, b: Tensor) -> float:
        seen.clear()
        with (
            contextlib.redirect_stderr(io.StringIO()),
            unittest.mock.patch.object(metric_fid, "fid_features_to_statistics", noted),
        ):
            metrics = calculate_metrics(
                input1=_Images(a),
                input2=_Images(b),
                fid=True,
                cuda=cuda,
                batch_size=batch_size,
                cache=False,
                verbose=False,
                feature_extractor_weights_path=path,
                save_cpu_ram=True,
            )
        return float(metrics["frechet_inception_distance"])

    return distance


def distance_without_roots(features: list[Tensor]) -> float:
    """The Fréchet distance of two sets of features [n, d], from the features themselves, in float64.

    The trace of (S_a S_b)^(1/2) is the nuclear norm of X_a X_b^T (deviations from the mean, over sqrt(n - 1)): no root
    of an eigenvalue that is zero but for rounding, so this is right to about 1e-14 where a covariance is singular, too.
    """
    means = [side.double().mean(0) for side in features]
    a, b = ((side.double() - mean) / (len(side) - 1) ** 0.5 for side, mean in zip(features, means, strict=True))
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    return float((means[0] - means[1]).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap)


class _Images(torch.utils.data.Dataset[Tensor]):
    """torch-fidelity takes datasets of uint8 images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def torchmetrics_distance(path: str, batch_size: int, device: str) -> Callable[[Tensor, Tensor], float]:
    from torchmetrics.image.fid import FrechetInceptionDistance

    # antialias=False is the TF1 resize; its default since 1.8 is another, and another FID.
    metric = FrechetInceptionDistance(feature_extractor_weights_path=path, antialias=False).to(device)

    def distance(a: Tensor, b: Tensor) -> float:
        metric.reset()
        for images, real in ((a, True), (b, False)):
            for batch in images.split(batch_size):
                metric.update(batch.to(device), real=real)
        return float(metric.compute())

    return distance


def pytorch_fid_distance(state: dict[str, Tensor], batch_size: int, device: str) -> Callable[[Tensor, Tensor], float]:
    """Its network and distance; its resize is another (no TensorFlow 1 grid), so its value is another."""
    import pytorch_fid.inception
    from pytorch_fid.fid_score import calculate_frechet_distance

    with unittest.mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", return_value=state):
        network = pytorch_fid.inception.InceptionV3([3]).eval().to(device)

    @torch.no_grad()
    def moments(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x = torch.cat([network(part.to(device).float() / 255)[0].flatten(1).cpu() for part in images.split(batch_size)])
        return x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)

    def distance(a: Tensor, b: Tensor) -> float:
        return float(calculate_frechet_distance(*moments(a), *moments(b)))

    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=128, help="images on each side")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--peers", default="torch-fidelity,torchmetrics,pytorch-fid", help="the peers to race, by commas"
    )
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    if on_cpu:
        torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        a, b = sample_images(args.n, args.image_size, 0), sample_images(args.n, args.image_size, 1)
        b = (b * 0.9).to(torch.uint8)
        path = str(args.weights or f"{folder}/weights-inception-2015-12-05-random.pth")
        if args.weights is None:
            torch.save(measure_batch_norms(random_inception_state(), a[:64]), path)
        state = torch.load(path, weights_only=True)
        network = build_inception(state)
        extractor = wrap_inception(network, "benchmark", True, torch.device(args.device))
        peers = args.peers.split(",")
        seen: list[Tensor] = []
        sides = {"ours": ours(extractor, args.batch_size)}
        if "torch-fidelity" in peers:
            sides["torch-fidelity"] = torch_fidelity_distance(path, args.batch_size, not on_cpu, seen)
        if "torchmetrics" in peers:
            sides["torchmetrics"] = torchmetrics_distance(path, args.batch_size, args.device)
        if "pytorch-fid" in peers and importlib.util.find_spec("pytorch_fid"):
            sides["pytorch-fid"] = pytorch_fid_distance(state, args.batch_size, args.device)
        for side in sides.values():
            side(a[: args.batch_size], b[: args.batch_size])
        values: dict[str, float] = {}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for i in range(args.rounds):
            for name, side in sides.items():
                began = clock()
                values[name] = side(a, b)
                times[name].append(clock() - began)
            print(f"round {i + 1}: " + ", ".join(f"{name} {t[-1]:.2f} s" for name, t in times.items()), flush=True)

    for name in sides:
        rate = 2 * args.n / statistics.median(times[name])
        print(f"{name:15s} {values[name]:.10g}, {rate:.1f} images/s")
    differences = {name: abs(values[name] / values["ours"] - 1) for name in sides if name != "ours"}
    if seen:
        exact = distance_without_roots(seen)
        differences["torch-fidelity's features, distance without roots"] = abs(exact / values["ours"] - 1)
        differences["torch-fidelity against that: its rounding"] = abs(values["torch-fidelity"] / exact - 1)
    for name, difference in differences.items():
        print(f"relative difference of the value: {name}: {difference:.1e}")
    ratios = {
        f"{name} / ours": [t / o for t, o in zip(times[name], times["ours"], strict=True)]
        for name in sides
        if name != "ours"
    }
    print(
        json.dumps(
            {
                "name": "fid",
                "ratios": {label: round(statistics.median(r), 3) for label, r in ratios.items()},
                "spread": {label: [round(min(r), 3), round(max(r), 3)] for label, r in ratios.items()},
                "conditions": {
                    "n": args.n,
                    "image_size": args.image_size,
                    "batch_size": args.batch_size,
                    "rounds": args.rounds,
                    "device": args.device,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "weights": "given" if args.weights else "random",
                    "clock": "CPU time of one thread" if on_cpu else "wall",
                    "relative_difference": differences,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
