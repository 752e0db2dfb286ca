"""One WGAN-GP training step (n_dis critic updates, one generator update): this project beside torch-mimicry's own
trainer code.

    python -m benchmarks.wgan_step --batch_size 64
    python -m benchmarks.wgan_step --profile         # where the time of this project's step goes

Both start from the same weights and get the same images, in one process, their rounds interleaved. torch-mimicry's side
is its networks and their `train_step`s, called as its Trainer calls them (whose logging and checkpointing are left out,
in its favour). The last line is JSON; a ratio above 1 means that this project is faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from models.gan import mimicry
from models.gan.networks import Critic, Generator
from trainers.wgan.loop import Training, training_steps
from training.processes import Processes


class NoLog:
    """Stands in for torch-mimicry's MetricLog; its `.item()`s are kept, since its trainer makes them."""

    def add_metric(self, name: str, value: Tensor | float, group: str | None = None, precision: int = 4) -> None:
        if isinstance(value, Tensor):
            value.item()


def mimicry_step(args: argparse.Namespace, batches: list[Tensor]) -> Callable[[], None]:
    generator, critic = mimicry.build_networks(args.image_size, ngf=args.ngf, ndf=args.ndf)
    generator.load_state_dict(args.weights[0])
    critic.load_state_dict(args.weights[1])
    G, D = generator.to(args.device), critic.to(args.device)
    optimizers = [torch.optim.Adam(net.parameters(), 2e-4, (0.0, 0.9)) for net in (G, D)]
    log = NoLog()
    labels = torch.zeros(args.batch_size)

    def step() -> None:
        for i in range(args.n_dis):
            batch = (batches[i], labels)
            D.train_step(
                real_batch=batch,
                netG=G,
                optD=optimizers[1],
                log_data=log,
                global_step=0,
                device=args.device,
                scaler=None,
            )
        G.train_step(
            real_batch=batch,
            netD=D,
            optG=optimizers[0],
            global_step=0,
            log_data=log,
            device=args.device,
            scaler=None,
        )

    return step


def our_step(args: argparse.Namespace, batches: list[Tensor]) -> Callable[[], None]:
    G, D = Generator(args.image_size, ngf=args.ngf), Critic(args.image_size, args.ndf)
    G.load_state_dict(args.weights[0])
    D.load_state_dict(args.weights[1])
    G, D = G.to(args.device), D.to(args.device)
    training = Training(G, D, bf16=args.bf16)
    processes = Processes(0, 1, torch.device(args.device))

    def step() -> None:
        steps = training.step + 1
        next(training_steps(training, batches, args.n_dis, gp_scale=10.0, steps=steps, processes=processes))

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def print_operations(step: Callable[[], None], rounds: int = 5) -> None:
    """Where the time of a step goes: each operation's own time, summed over the step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(rounds):
            step()
    times = sorted(((event.self_cpu_time_total, event.key) for event in profile.key_averages()), reverse=True)
    total = sum(time for time, _ in times)
    print("| operation | ms a step | share |\n|---|---|---|")
    for time_us, name in times[:20]:
        print(f"| `{name}` | {time_us / rounds / 1000:.1f} | {100 * time_us / total:.1f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--ngf", type=int, default=128)
    parser.add_argument("--ndf", type=int, default=128)
    parser.add_argument("--n_dis", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="this project's mixed precision; torch-mimicry stays as it is"
    )
    parser.add_argument("--profile", action="store_true", help="no comparison: this project's step by operation")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.device == "cuda":  # both sides get what `training.processes.join_processes` sets
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    torch.manual_seed(0)
    args.weights = tuple(
        net.state_dict() for net in (Generator(args.image_size, ngf=args.ngf), Critic(args.image_size, args.ndf))
    )
    batches = [
        torch.rand(args.batch_size, 3, args.image_size, args.image_size, device=args.device) * 2 - 1
        for _ in range(args.n_dis)
    ]
    steps = {"mimicry": mimicry_step(args, batches), "ours": our_step(args, batches)}
    for step in steps.values():  # kernels are chosen and memory is taken in the first steps
        for _ in range(2):
            seconds(step, args.device)
    if args.profile:
        print_operations(steps["ours"])
        return
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, args.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [theirs / ours for theirs, ours in zip(times["mimicry"], times["ours"], strict=True)]
    for name, median in medians.items():
        print(
            f"{name:8} {1000 * median:9.1f} ms a step (min {1000 * min(times[name]):.1f}, max "
            f"{1000 * max(times[name]):.1f})"
        )
    low, high = statistics.quantiles(ratios, n=10)[0], statistics.quantiles(ratios, n=10)[-1]
    label = f"batch {args.batch_size}"
    conditions = {
        name: getattr(args, name)
        for name in ("batch_size", "image_size", "ngf", "ndf", "n_dis", "rounds", "threads", "device", "bf16")
    }
    conditions |= {"torch": torch.__version__, "spread": "10th and 90th percentile of the ratios of rounds"}
    print(
        json.dumps(
            {
                "name": "wgan_step",
                "ratios": {label: round(medians["mimicry"] / medians["ours"], 3)},
                "spread": {label: [round(low, 3), round(high, 3)]},
                "conditions": conditions,
            }
        )
    )


if __name__ == "__main__":
    main()
