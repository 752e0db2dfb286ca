# The trainer's image. CPU and NVIDIA GPUs alike: the registry's torch brings its CUDA libraries; the host needs only the driver.
#   docker build -t wgan-eeg --build-arg GIT_COMMIT=$(git rev-parse HEAD) .
#   docker run --rm --gpus all -v wgan-eeg:/work wgan-eeg python -m trainers.wgan --preset quick
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 GIT_PYTHON_REFRESH=quiet

# Dependencies first: this layer changes only with the pins.
WORKDIR /opt/wgan-eeg
COPY requirements.txt requirements-nodeps.txt ./
RUN pip install -r requirements.txt && pip install --no-deps -r requirements-nodeps.txt

COPY . .

ARG GIT_COMMIT=""
ENV GIT_COMMIT=${GIT_COMMIT} PYTHONPATH=/opt/wgan-eeg

# Runs, caches and the tracking store are written to the working directory: make it a volume.
RUN useradd --create-home trainer && mkdir /work && chown trainer /work
USER trainer
WORKDIR /work
VOLUME /work

# exec form and no mlflow run in between, so that `docker stop` reaches the trainer, which checkpoints and ends.
CMD ["python", "-m", "trainers.wgan", "--preset", "quick"]
