"""What serving costs: requests to `mlflow models serve` beside the same computation by the network itself.

    python -m benchmarks.serving --rounds 15

A generator and an EEG classifier of the quick presets' sizes (untrained: the time does not depend on it) are registered
in a store of their own and served by real processes on loopback. Every round asks each side once: the network itself,
the registered model in this process (`mlflow.pyfunc`), and the server, by a client that parses the answer. All use one
thread. A ratio is the time of the
network itself over the time of the other side: 1 where serving is free, 0.5 where it doubles the time. The last line is
JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

# One thread on every side, before torch and the servers start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mlflow
import numpy as np
import torch

from data.eeg.recording import fir_kernel
from models.eeg.transformer import EegTransformer, EpochClassifier
from models.gan.isir import I_SIR
from models.gan.networks import Critic, Generator
from tests.tracking.servers import ModelServer
from tracking import store
from tracking.registry.models import log_model
from tracking.run import start_run
from training.generators.stored import sampler_with

NZ, IMAGES, ITERATIONS, PARTICLES, CORRECTED = 64, 64, 3, 10, 16


class Client:
    """A client that keeps nothing between requests; counts the bytes of the last answer."""

    def __init__(self, server: ModelServer) -> None:
        self.url, self.size = server.url, 0

    def ask(self, body: bytes) -> object:
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        self.size = len(text)
        return json.loads(text)["predictions"]


def register(folder: Path) -> tuple[Generator, Critic, EpochClassifier, np.ndarray]:
    """The networks, registered in the store in use; and 16 epochs [16, 64, 801] in volts."""
    torch.manual_seed(0)
    G, D = Generator(32, NZ, 32).eval(), Critic(32, 32).eval()
    transformer = EegTransformer(64, patch_len=40, patch_stride=20)
    classifier = EpochClassifier(transformer, torch.from_numpy(fir_kernel(160.0, 7, 30)), window=160, step=80).eval()
    epochs = np.random.default_rng(0).normal(0, 2e-5, (16, 64, 801)).astype(np.float32)
    with start_run("serving", {}, output_dir=folder / "runs") as run:
        z = torch.randn(4, NZ).numpy()
        log_model(run, G, "g", z, registered_name="g", config={}, alias="served", sampler=sampler_with(D))
        log_model(run, classifier, "eeg", epochs[:4], registered_name="eeg", config={}, alias="served")
    return G, D, classifier, epochs


def rate(ask: Callable[[], object], clients: int, seconds: float) -> float:
    """Answers per second to clients that ask again as soon as they have an answer."""
    counts, end = [0] * clients, time.perf_counter() + seconds

    def run(i: int) -> None:
        while time.perf_counter() < end:
            ask()
            counts[i] += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5, help="of asking, for answers per second")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        uri = f"sqlite:///{folder}/mlflow.db"
        store.use(uri)
        G, D, classifier, epochs = register(folder)
        models = {key: mlflow.pyfunc.load_model(f"models:/{key}@served") for key in ("g", "eeg")}
        servers = {}
        for key in models:
            (folder / key).mkdir()
            servers[key] = ModelServer(folder / key, uri, f"models:/{key}@served")
        try:
            measure(
                args.rounds, args.seconds, G, D=D, classifier=classifier, epochs=epochs, models=models, servers=servers
            )
        finally:
            for server in servers.values():
                server.stop()


def measure(
    rounds: int,
    seconds: float,
    G: Generator,
    D: Critic,
    classifier: EpochClassifier,
    epochs: np.ndarray,
    models: dict[str, mlflow.pyfunc.PyFuncModel],
    servers: dict[str, ModelServer],
) -> None:
    clients = {key: Client(server) for key, server in servers.items()}

    def direct(n: int, iterations: int) -> object:
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            if iterations:
                return G(I_SIR(iterations, n, PARTICLES, n_z=NZ, D=D, G=G, generator=random)).numpy()
            return G(torch.randn(n, NZ, generator=random)).numpy()

    def classify(n: int) -> object:
        with torch.no_grad():
            return classifier(torch.from_numpy(epochs[:n])).numpy()

    def sampler(n: int, iterations: int, output: str, over: str) -> Callable[[], object]:
        params = {"seed": 0, "output": output, "isir_iterations": iterations, "n_particles": PARTICLES}
        body = json.dumps({"inputs": {"n": n}, "params": params}).encode()
        return (
            (lambda: clients["g"].ask(body)) if over == "http" else lambda: models["g"].predict({"n": n}, params=params)
        )

    bodies = {n: json.dumps({"inputs": epochs[:n].tolist()}).encode() for n in (1, 16)}
    # what: (the network itself, {other side: call})
    cases: dict[str, tuple[Callable[[], object], dict[str, Callable[[], object]]]] = {
        f"{IMAGES} images": (
            lambda: direct(IMAGES, 0),
            {
                "pyfunc": sampler(IMAGES, 0, "float", "here"),
                **{f"HTTP, {output}": sampler(IMAGES, 0, output, "http") for output in ("uint8", "float", "png")},
            },
        ),
        f"{CORRECTED} images after {ITERATIONS} iterations of I-SIR": (
            lambda: direct(CORRECTED, ITERATIONS),
            {"HTTP, uint8": sampler(CORRECTED, ITERATIONS, "uint8", "http")},
        ),
        "1 epoch": (
            lambda: classify(1),
            {"pyfunc": lambda: models["eeg"].predict(epochs[:1]), "HTTP": lambda: clients["eeg"].ask(bodies[1])},
        ),
        "16 epochs": (
            lambda: classify(16),
            {"pyfunc": lambda: models["eeg"].predict(epochs), "HTTP": lambda: clients["eeg"].ask(bodies[16])},
        ),
    }
    print(f"one request of 16 epochs: {len(bodies[16]) / 1e6:.1f} MB of JSON, of 1 epoch {len(bodies[1]) / 1e6:.2f} MB")
    ratios, spread = {}, {}
    for what, (itself, others) in cases.items():
        sides = {"itself": itself, **others}
        for call in sides.values():  # warm
            call()
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, call in sides.items():
                began = time.perf_counter()
                call()
                times[side].append(time.perf_counter() - began)
        print(f"\n{what}: the network itself {1000 * statistics.median(times['itself']):.1f} ms")
        for side, call in others.items():
            each = [a / b for a, b in zip(times["itself"], times[side], strict=True)]
            ratios[f"{what}, {side}"] = round(statistics.median(each), 3)
            spread[f"{what}, {side}"] = [round(min(each), 3), round(max(each), 3)]
            milliseconds = [1000 * seconds for seconds in times[side]]
            line = f"  {side:12s} median {statistics.median(milliseconds):7.1f} ms, slowest {max(milliseconds):7.1f} ms"
            if side.startswith("HTTP"):
                call()
                size = clients["eeg" if "epoch" in what else "g"].size
                line += f", answer {size / 1e3:.1f} kB, {rate(call, 1, seconds):.1f} answers/s to one client"
                line += f", {rate(call, 4, seconds):.1f} to four"
            print(line)
    print(
        json.dumps(
            {
                "name": "serving",
                "ratios": ratios,
                "spread": spread,
                "conditions": {
                    "ratio": "time of the network itself / time of this side",
                    "image_size": 32,
                    "ngf = ndf": 32,
                    "nz": NZ,
                    "n_particles": PARTICLES,
                    "epochs": "64 x 801",
                    "rounds": rounds,
                    "threads per process": 1,
                    "torch": torch.__version__,
                    "mlflow": mlflow.__version__,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
