"""Corrected samples per second: `I_SIR` beside a straightforward reading of the exercise's pseudo-code, on the same
networks.

    python -m benchmarks.isir --chains 64 --iterations 5 --particles 10

The reading evaluates all N_p + 1 particles of every chain in each iteration, in one batch; "as it reads" it builds the
graph, too, since the pseudo-code says nothing else, and once under no_grad. All sides use the same random numbers and
must return the same codes. The last line is JSON; a ratio above 1 means that this project is faster.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from models.gan.isir import BLOCK, I_SIR
from models.gan.networks import Critic, Generator


def pseudo_code(
    N_i: int, N_s: int, N_p: int, n_z: int, D: Critic, G: Generator, seed: int, weights: str = "importance"
) -> Tensor:
    """The exercise's algorithm as it reads, drawing from the same streams as models/gan/isir.py."""
    seeds = torch.randint(2**62, (-(-N_s // BLOCK),), generator=torch.Generator().manual_seed(seed)).tolist()
    streams = [torch.Generator().manual_seed(s) for s in seeds]
    z = torch.cat([torch.randn(BLOCK, n_z, generator=g) for g in streams])[:N_s].unsqueeze(1)
    for _ in range(N_i):
        fresh = torch.cat([torch.randn(BLOCK, N_p, n_z, generator=g) for g in streams])[:N_s]
        z = torch.cat([z, fresh], dim=1)
        log_w = D(G(z.reshape(-1, n_z))).view(N_s, N_p + 1)
        if weights == "density":
            log_w = log_w - 0.5 * z.square().sum(2)
        noise = torch.cat([-torch.empty(BLOCK, N_p + 1).exponential_(generator=g).log() for g in streams])[:N_s]
        chosen = (log_w.log_softmax(1) + noise).argmax(1)
        z = z[torch.arange(N_s), chosen].unsqueeze(1)
    return z.squeeze(1).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--particles", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--width", type=int, default=32, help="ngf and ndf")
    parser.add_argument("--chunk_images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    torch.manual_seed(0)
    nz = 64
    G, D = Generator(args.image_size, nz, args.width).eval(), Critic(args.image_size, args.width).eval()
    with torch.no_grad():
        D.linear.weight.mul_(30)  # an untrained critic is nearly constant; this one decides something
    sizes = (args.iterations, args.chains, args.particles, nz)

    def ours(seed: int) -> Tensor:
        return I_SIR(*sizes, D, G, generator=torch.Generator().manual_seed(seed), chunk_images=args.chunk_images)

    def reading(context: Callable[[], contextlib.AbstractContextManager[None]]) -> Callable[[int], Tensor]:
        def run(seed: int) -> Tensor:
            with context():
                return pseudo_code(*sizes, D, G, seed)

        return run

    sides: dict[str, Callable[[int], Tensor]] = {
        "ours": ours,
        "pseudo-code as it reads": reading(contextlib.nullcontext),
        "pseudo-code under no_grad": reading(torch.no_grad),
    }
    expected = ours(0)
    for name, side in sides.items():
        assert torch.equal(side(0), expected), f"{name} returns other codes"
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(args.rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side(i)
            times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        print(f"{name:26s} {args.chains / statistics.median(seconds):8.2f} samples/s")
    ratios = {
        f"{n} / ours": [t / o for t, o in zip(times[n], times["ours"], strict=True)] for n in sides if n != "ours"
    }
    print(
        json.dumps(
            {
                "name": "isir",
                "ratios": {label: round(statistics.median(r), 3) for label, r in ratios.items()},
                "spread": {label: [round(min(r), 3), round(max(r), 3)] for label, r in ratios.items()},
                "conditions": {
                    "N_s": args.chains,
                    "N_i": args.iterations,
                    "N_p": args.particles,
                    "image_size": args.image_size,
                    "ngf = ndf": args.width,
                    "chunk_images": args.chunk_images,
                    "rounds": args.rounds,
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "results": "equal",
                },
            }
        )
    )


if __name__ == "__main__":
    main()
