"""Write docker/MLproject: the entry points of the root's MLproject, run in the trainer's image (a project has one
environment).

python docker/sync.py, after a change of the root's MLproject.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

HEAD = """\
# Written by docker/sync.py from the MLproject beside it: change that one, then run `python docker/sync.py`.
#   docker build -t wgan-eeg .
#   mlflow run docker -e wgan -A user=$(id -u) -P gp_scale=5
# docs/docker.md has the options: a tracking server, GPUs.
name: wgan-eeg

docker_env:
  image: wgan-eeg:latest
  # Runs, checkpoints and caches; the trainers write to the working directory of the image.
  volumes: ["wgan-eeg:/work"]

"""


def docker_mlproject() -> str:
    """The text of docker/MLproject."""
    root = (ROOT / "MLproject").read_text()
    return HEAD + root[root.index("entry_points:") :]


if __name__ == "__main__":
    (ROOT / "docker" / "MLproject").write_text(docker_mlproject())
