#!/usr/bin/env bash
# Builds the images of the Dockerfile and runs them and the stack of compose.yaml, on a machine without Docker's engine and without
# an image registry: Debian's podman and runc, on a base image made by debootstrap. As root: `make docker-verify`, or
#   docker/verify/run.sh [image] [project] [stack] [accounts]      some of the checks
#   apt-get install podman runc debootstrap netavark aardvark-dns iptables; a docker command line client for `mlflow run docker`
#   VERIFY_DIR     keeps images and volumes there for the next time (default: a temporary folder, removed at the end; 25 GB)
#   BUILD_FLAGS    more flags for `podman build`, such as certificates: -v /etc/ssl/certs/ca-certificates.crt:...:ro
#   DEBIAN_MIRROR  where debootstrap fetches Debian from
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${VERIFY_DIR:-$(mktemp -d)}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
base=docker.io/library/python:3.11-slim-bookworm
mkdir -p "$dir"

say() { printf '\n== %s\n' "$*"; }
ok() { printf 'ok: %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run it as root"
for tool in podman runc iptables debootstrap podman-compose mlflow hadolint; do
    command -v "$tool" > /dev/null || fail "$tool is missing (see the head of $0)"
done

# Settings that work without an init system and with few privileges, all of them for this script alone.
export CONTAINERS_CONF=$dir/containers.conf CONTAINERS_STORAGE_CONF=$dir/storage.conf
cat > "$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
cat > "$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "overlay"
graphroot = "$dir/images"
runroot = "$dir/run"
CONF

# A project name and a port of its own, so that a stack that runs already is left alone.
export COMPOSE_PROJECT_NAME=wgan-eeg-verify MLFLOW_PORT=${MLFLOW_PORT:-5999}
export POSTGRES_IMAGE=wgan-eeg-verify-postgres STORE_IMAGE=wgan-eeg-verify-store
export POSTGRES_PASSWORD=verify1 S3_ACCESS_KEY=verify2 S3_SECRET_KEY=verify3
export MLFLOW_ADMIN_PASSWORD=verify-admin-password MLFLOW_SECRET_KEY=verify4 MLFLOW_DISABLE_TELEMETRY=true
export BUILDAH_FORMAT=${BUILDAH_FORMAT:-docker}  # the OCI format has no health checks
# What docs/docker.md tells the stack's users: files come through the server, not from the store, whose name only the stack knows.
export MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false
unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID
server=http://127.0.0.1:$MLFLOW_PORT
service=

finish() {
    status=$?
    [ -z "$service" ] || kill "$service" 2> /dev/null || true
    podman-compose -f compose.yaml -f compose.auth.yaml --profile train down -v > /dev/null 2>&1 || true
    podman rm -fa > /dev/null 2>&1 || true
    podman volume prune -f > /dev/null 2>&1 || true
    podman network prune -f > /dev/null 2>&1 || true
    umount "$dir/images/overlay" 2> /dev/null || true
    if [ -z "${VERIFY_DIR:-}" ]; then rm -rf "$dir"; fi
    [ $status = 0 ] && printf '\nall checks passed\n' || printf '\nended with status %s\n' $status >&2
}
trap finish EXIT

say "lint"
hadolint Dockerfile docker/verify/*.Dockerfile --ignore DL3008 --ignore DL3009 --ignore DL3066
ok "hadolint"

say "base image"
if ! podman image exists $base; then
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$dir/rootfs" "$mirror" > "$dir/debootstrap.log"
    ln -sf python3 "$dir/rootfs/usr/bin/python"
    rm -f "$dir"/rootfs/usr/lib/python3.*/EXTERNALLY-MANAGED
    tar -C "$dir/rootfs" -c . | podman import - $base > /dev/null
    rm -rf "$dir/rootfs"
fi
podman run --rm $base python --version > "$dir/version" || fail "a container does not start"
ok "Debian's Python under the name $base: $(cat "$dir/version")"

say "build"
build() { # tag, flags...
    local tag=$1 began=$SECONDS; shift
    # shellcheck disable=SC2086
    podman build --pull=never ${BUILD_FLAGS:-} -t "$tag" "$@" > "$dir/build-$tag.log" 2>&1 || { tail -20 "$dir/build-$tag.log"; fail "build of $tag"; }
    ok "$tag: $(($(podman image inspect -f '{{.Size}}' "$tag") / 1000000)) MB, built in $((SECONDS - began)) s"
}
build wgan-eeg-server --target server .
build $POSTGRES_IMAGE -f docker/verify/postgres.Dockerfile docker/verify
build $STORE_IMAGE -f docker/verify/store.Dockerfile docker/verify
build wgan-eeg --build-arg "GIT_COMMIT=$(git rev-parse HEAD)" .
podman tag wgan-eeg docker.io/library/wgan-eeg:latest  # the name that Docker gives it, for Docker's clients
build wgan-eeg-again --build-arg GIT_COMMIT=another .
! grep -q "Collecting" "$dir/build-wgan-eeg-again.log" || fail "another commit installs packages again"
ok "another commit takes all packages from the cache"
podman rmi wgan-eeg-again > /dev/null  # the name alone: podman 4.3 takes the other commit from the cache, too

# shellcheck source=docker/verify/checks.sh
. docker/verify/checks.sh
for part in ${*:-image project stack accounts}; do "check_$part"; done
