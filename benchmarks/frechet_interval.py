"""How often the 95 % interval of a difference of Fréchet distances holds the true difference.

    python -m benchmarks.frechet_interval                       # 300 and 1,000 images
    python -m benchmarks.frechet_interval --sizes 1000 --repeats 400
    python -m benchmarks.frechet_interval --noise 1.5,1.0       # distances of 2.4 and 0.8 from the data

Two samplers whose images are known without end: digits with much noise and with less, in the features of the digits'
classifier; in half of the pairs the digit is the same, as in chains that have not moved. Each repeat draws n pairs and
makes the interval as `isir_fid` does. The truth for n images is the mean of all repeats' differences: the bias of few
images belongs to it, since both sides have it and the run reports it as it is. The last line has cover instead of
ratios.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from common.progress import Progress
from evaluation.features import extract, network_extractor
from evaluation.frechet import Gaussian, Moments, bootstrap_differences, frechet_of, interval
from evaluation.images import to_uint8
from models.gan.digit_classifier import DigitFeatures
from training.generators.digit_features import digit_images, train_classifier

POPULATION = 20_000


def features_of_samplers(cache_dir: Path, noise: tuple[float, float]) -> tuple[Tensor, Tensor, Gaussian]:
    """(features of both samplers' images [POPULATION, 64], row by row a pair; the reference).

    noise: standard deviation of the noise on the images of each sampler; those with less are nearer to the data.
    """
    classifier, _ = train_classifier(cache_dir)
    network = DigitFeatures(classifier.eval())
    extractor = network_extractor("digits", network, "interval", family="digits", device=torch.device("cpu"))
    x = torch.from_numpy(digit_images("train", cache_dir).pixels.copy()).float() / 127.5 - 1
    random = torch.Generator().manual_seed(0)
    first = torch.randint(len(x), (POPULATION,), generator=random)
    moved = torch.rand(POPULATION, generator=random) < 0.5
    second = torch.where(moved, torch.randint(len(x), (POPULATION,), generator=random), first)
    sides = [
        extract(
            extractor,
            (
                to_uint8(x[part] + level * torch.randn(len(part), *x.shape[1:], generator=random))
                for part in rows.split(500)
            ),
        ).x
        for rows, level in ((first, noise[0]), (second, noise[1]))
    ]
    return sides[0], sides[1], Gaussian.of(Moments.of(extract(extractor, (to_uint8(p) for p in x.split(500))).x))


def cover(a: Tensor, b: Tensor, reference: Gaussian, *, n: int, repeats: int, draws: int) -> tuple[float, float, float]:
    """(share of intervals that hold the true difference, that difference, mean length of an interval)."""
    random, progress = torch.Generator().manual_seed(n), Progress(repeats, unit="interval")
    differences, intervals = [], []
    for _ in range(repeats):
        rows = torch.randint(len(a), (n,), generator=random)
        differences.append(frechet_of(b[rows], reference) - frechet_of(a[rows], reference))
        intervals.append(interval(bootstrap_differences(a[rows], b[rows], reference, draws=draws, generator=random)))
        progress.advance(note=f"{n} images")
    progress.close()
    truth = sum(differences) / repeats
    held = sum(low <= truth <= high for low, high in intervals) / repeats
    return held, truth, sum(high - low for low, high in intervals) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frechet_interval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", default="300,1000", help="numbers of images")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200, help="bootstrap draws of an interval")
    parser.add_argument("--noise", default="0.6,0.5", help="of the images of the two samplers")
    args = parser.parse_args()
    more, less = map(float, args.noise.split(","))
    a, b, reference = features_of_samplers(Path("cache"), (more, less))
    print("| images | cover of the 95 % interval | true difference | mean length |\n|---|---|---|---|")
    found = {}
    for n in map(int, args.sizes.split(",")):
        held, truth, length = cover(a, b, reference, n=n, repeats=args.repeats, draws=args.draws)
        error = (held * (1 - held) / args.repeats) ** 0.5
        print(f"| {n:,} | {100 * held:.1f} % (± {100 * error:.1f}) | {truth:+.3f} | {length:.3f} |", flush=True)
        found[str(n)] = round(held, 4)
    conditions = {
        "repeats": args.repeats,
        "draws": args.draws,
        "noise": args.noise,
        "dimensions": a.shape[1],
        "cover": found,
    }
    print(json.dumps({"name": "frechet_interval", "ratios": {}, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    main()
