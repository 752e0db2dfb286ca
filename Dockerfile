# Two images from one file.
#   docker build -t wgan-eeg --build-arg GIT_COMMIT=$(git rev-parse HEAD) .         the trainers (the last stage: the default)
#   docker build -t wgan-eeg-server --target server .                              the tracking server of compose.yaml
# PyTorch: the package registry's build by default, with its CUDA libraries (the host needs only NVIDIA's driver; it runs on CPUs,
# too). For the CPU build, much smaller: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
# docs/docker.md has the rest.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# ------------------------------------------------------------------------------------------------------------------ server
FROM ${PYTHON_IMAGE} AS server

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 GIT_PYTHON_REFRESH=quiet MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /opt/mlflow
COPY requirements-server.txt ./
RUN pip install -r requirements-server.txt
COPY docker/server ./
# /auth: the accounts of compose.auth.yaml.
RUN useradd --uid 1000 --create-home mlflow && mkdir /auth && chown 1000 /auth
USER 1000
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=5 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=8)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]

# -------------------------------------------------------------------------------------------------------------------- pins
# The lines of requirements.txt that name PyTorch, as a file of their own: the layer of several GB below is built again only
# when they change, not with every other pin.
FROM ${PYTHON_IMAGE} AS pins
WORKDIR /pins
COPY requirements.txt ./
RUN grep -E '^(torch|torchvision)==' requirements.txt > torch.txt

# ----------------------------------------------------------------------------------------------------------------- trainer
FROM ${PYTHON_IMAGE} AS trainer

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 GIT_PYTHON_REFRESH=quiet MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /opt/wgan-eeg

COPY --from=pins /pins/torch.txt ./
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r torch.txt

COPY requirements.txt requirements-nodeps.txt ./
RUN pip install -r requirements.txt && pip install --no-deps -r requirements-nodeps.txt

# Runs, caches and a local tracking store go to the working directory, a volume. Any user may write there (and where `mlflow run`
# mounts an SQLite store), so that `--user $(id -u)` works: then the files of a mounted folder belong to whoever started it.
RUN useradd --uid 1000 --no-create-home --home-dir /work trainer \
    && mkdir -p /work /mlflow/tmp && chmod 1777 /work /mlflow/tmp
ENV HOME=/work USER=trainer LOGNAME=trainer PYTHONPATH=/opt/wgan-eeg

COPY . .
# Last, since it changes with every commit.
ARG GIT_COMMIT=""
ENV GIT_COMMIT=${GIT_COMMIT}

USER 1000
WORKDIR /work
VOLUME /work

# A run that is being written and has recorded nothing for half an hour (WGAN_EEG_SILENT_MINUTES) hangs.
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s CMD ["python", "/opt/wgan-eeg/docker/health.py"]

# No entry point, since `mlflow run docker` appends its command; exec form and no `mlflow run` in between, so that `docker stop`
# reaches the trainer, which checkpoints and ends.
CMD ["python", "-m", "trainers.wgan", "--preset", "quick"]
