"""Takes the README's pictures of the MLflow UI: a real `mlflow ui` over the store in use, looked at by a real Chromium.

`python -m tests.docs.screenshots docs/figures` needs a finished `wgan` run in the store (MLFLOW_TRACKING_URI, or
mlflow.db here).
"""

import argparse
import io
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image

from tests.browser import Page, open_browser
from tests.conftest import PATIENCE
from tests.tracking.servers import free_port
from tracking.reading import Reader

WIDTH, HEIGHT = 1280, 800
ASSISTANT = 332  # pixels at the right, of a panel that is not ours


def wait_for(address: str) -> None:
    """Until the UI answers; a minute at most."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


TRAINING_MENU = (
    "[...document.querySelectorAll('*')].find(e => !e.children.length && e.textContent === 'Model training')?.click()"
)


def show(tab: Page, address: str, words: str) -> None:
    """Open `address` and wait until `words` are on it."""
    tab.open(address, WIDTH, HEIGHT)
    deadline = time.monotonic() + PATIENCE
    while not tab.evaluate(f"document.body.innerText.includes({words!r})"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{address} does not show {words!r}: {tab.evaluate('document.body.innerText')[:500]}")
        time.sleep(0.5)


def take(tab: Page, address: str, words: str, path: Path) -> None:
    """A picture of `address`, given time to draw its charts once `words` are on it."""
    show(tab, address, words)
    time.sleep(2)
    tab.evaluate(TRAINING_MENU)
    time.sleep(3)
    whole = path.with_suffix(".whole.png")
    tab.screenshot(whole, whole=False)
    picture = Image.open(io.BytesIO(whole.read_bytes())).convert("RGB").crop((0, 0, WIDTH - ASSISTANT, HEIGHT))
    whole.unlink()
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--experiment", default="wgan-eeg")
    arguments = parser.parse_args()
    reader = Reader()
    runs = reader.runs(arguments.experiment)
    run = next(run for run in runs if run.entry_point == "wgan" and run.status == "FINISHED" and run.parent is None)
    port = free_port()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "ui",
            "--backend-store-uri",
            reader.uri,
            "--port",
            str(port),
            "--workers",
            "1",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}/"
        wait_for(base)
        with open_browser() as tab:
            experiment = f"{base}{run.page.split('/runs/')[0]}/runs"
            take(tab, experiment, run.name, arguments.folder / "ui_runs.png")
            take(tab, f"{base}{run.page}/model-metrics", "gradient_penalty", arguments.folder / "ui_curves.png")
            take(
                tab,
                f"{base}{run.page}/artifacts/figures/samples_ema.png",
                "samples_ema",
                arguments.folder / "ui_artifacts.png",
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
