# The checks of run.sh, sourced by it: the trainer's image alone, `mlflow run docker`, the stack of compose.yaml, its accounts.
# shellcheck shell=bash disable=SC2154

tiny=(--image_size 32 --ngf 16 --ndf 16 --nz 8 --batch_size 8 --steps 20 --n_samples 4)

answers() { python -c "import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + '/health', timeout=5)" $server 2> /dev/null; }
wait_for_server() { for _ in $(seq 120); do answers && return; sleep 1; done; podman-compose logs mlflow 2>&1 | tail -30; fail "the server does not answer"; }
code() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
# --no-deps: podman 4.3 refuses a container whose dependency has a dependency of its own; all four are named, and each waits itself
server_up() { podman-compose "$@" up -d --no-build --no-deps database store bucket mlflow > "$dir/up.log" 2>&1 || { tail -20 "$dir/up.log"; fail "podman-compose up"; }; wait_for_server; }

check_image() {
    say "the trainer's image"
    [ "$(podman run --rm wgan-eeg id -u)" = 1000 ] || fail "the image runs as root"
    ok "runs as user 1000"
    ! podman run --rm wgan-eeg pip list 2> /dev/null | grep -i '^tensorflow' || fail "TensorFlow is in the image"
    ok "no TensorFlow"
    podman run --rm wgan-eeg sh -c 'ls -a /opt/wgan-eeg' | grep -qxE '\.git|\.env|\.venv|tests' && fail "the image holds .git, .env, .venv or tests"
    ok "no .git, .env, .venv or tests in it"
    podman run --rm -e OMP_NUM_THREADS=1 -v verify-work:/work wgan-eeg python -m trainers.wgan "${tiny[@]}" > "$dir/run.log" 2>&1 || { tail -20 "$dir/run.log"; fail "training in the container"; }
    grep -q 'model models:/wgan-generator/1' "$dir/run.log" || fail "no model was registered"
    ok "trains and registers in a volume, without a server"
    podman run --rm -e OMP_NUM_THREADS=1 --user 4242 -v verify-any:/work wgan-eeg python -m trainers.wgan "${tiny[@]}" --steps 2 > "$dir/any.log" 2>&1 || { tail -20 "$dir/any.log"; fail "as another user"; }
    ok "trains as any user (--user 4242)"

    say "docker stop"
    podman run -d -e OMP_NUM_THREADS=1 --name verify-stop -v verify-work:/work wgan-eeg python -m trainers.wgan "${tiny[@]}" --steps 100000 > /dev/null
    for _ in $(seq 120); do podman logs verify-stop 2>&1 | grep -q 'from step 0' && break; sleep 1; done
    sleep 3
    podman healthcheck run verify-stop || fail "the health check calls a live run sick"
    ok "health check of a live run"
    podman stop -t 60 verify-stop > /dev/null
    [ "$(podman inspect -f '{{.State.ExitCode}}' verify-stop)" = 143 ] || fail "podman stop: status $(podman inspect -f '{{.State.ExitCode}}' verify-stop)"
    podman logs verify-stop 2>&1 | grep 'go on with resume=' || fail "no checkpoint at the stop"
    ok "podman stop: a checkpoint, status 143"
    podman rm verify-stop > /dev/null
}

start_socket() {
    podman system service --time=0 "unix://$dir/podman.sock" > "$dir/service.log" 2>&1 &
    service=$!
    export DOCKER_HOST=unix://$dir/podman.sock
    for _ in $(seq 50); do docker info > /dev/null 2>&1 && break; sleep 0.2; done
}

check_project() {
    if command -v docker > /dev/null; then
        say "mlflow run docker (Docker's client and SDK, podman's socket)"
        start_socket
        store=$(mktemp -d)
        # from another folder: MLflow keeps the artifacts of a local store in ./mlruns
        (cd "$store" && MLFLOW_TRACKING_URI=sqlite:///$store/mlflow.db mlflow run "$OLDPWD/docker" -e wgan -A user="$(id -u)" \
            -P image_size=32 -P ngf=16 -P ndf=16 -P nz=8 -P batch_size=8 -P steps=20 -P n_samples=4 -A env=OMP_NUM_THREADS=1) > "$dir/mlflow-run.log" 2>&1 \
            || { tail -30 "$dir/mlflow-run.log"; fail "mlflow run docker -e wgan"; }
        MLFLOW_TRACKING_URI=sqlite:///$store/mlflow.db python -c "
from mlflow import MlflowClient
client = MlflowClient()
[run] = client.search_runs(['0'])
assert run.info.status == 'FINISHED', run.info.status
assert run.data.tags['mlflow.project.env'] == 'docker' and run.data.params['steps'] == '20'
assert client.get_model_version_by_alias('wgan-generator', 'latest-good').run_id == run.info.run_id
" || fail "the run is not in the host's store"
        rm -rf "$store"
        ok "mlflow run docker -e wgan, recorded in SQLite on the host"
    else
        say "mlflow run docker: SKIPPED, there is no docker command line client"
    fi
}

check_stack() {
    say "the stack of compose.yaml (podman-compose)"
    began=$SECONDS
    server_up
    ok "the UI answers on $server after $((SECONDS - began)) s"
    [ "$(code -H 'Host: evil.example' "$server/api/2.0/mlflow/experiments/get?experiment_id=0")" = 403 ] || fail "a foreign host name is answered"
    ok "a foreign host name is refused"
    for name in database mlflow; do
        podman healthcheck run "$(podman ps -q --filter "label=io.podman.compose.service=$name" --filter "label=io.podman.compose.project=$COMPOSE_PROJECT_NAME" | head -1)" > /dev/null || fail "health check of $name"
        ok "health check of $name"
    done
    podman-compose --profile train run --rm -T --no-deps -e OMP_NUM_THREADS=1 trainer python -m trainers.wgan "${tiny[@]}" > "$dir/compose-run.log" 2>&1 || { tail -30 "$dir/compose-run.log"; fail "the trainer of the stack"; }
    MLFLOW_TRACKING_URI=$server python -c "
from mlflow import MlflowClient
client = MlflowClient()
version = client.get_model_version_by_alias('wgan-generator', 'latest-good')
run = client.get_run(version.run_id)
assert run.info.status == 'FINISHED' and run.data.params['steps'] == '20'
assert run.info.artifact_uri.startswith('mlflow-artifacts:'), run.info.artifact_uri
assert any(f.path == 'checkpoints/checkpoint.pt' for f in client.list_artifacts(run.info.run_id, 'checkpoints'))
import mlflow, numpy
images = mlflow.pyfunc.load_model('models:/wgan-generator@latest-good').predict({'codes': numpy.zeros((2, 8), dtype='float32')}, params={'output': 'float'})
assert images.shape == (2, 3, 32, 32)
" || fail "run, artifacts or model of the stack"
    ok "the trainer records in the server: PostgreSQL, artifacts in the S3 store, a model that loads"
    if command -v docker > /dev/null; then
        [ -n "$service" ] || start_socket
        MLFLOW_TRACKING_URI=$server mlflow run docker -e wgan -A network=host -P image_size=32 -P ngf=16 -P ndf=16 -P nz=8 -P batch_size=8 \
            -P steps=5 -P n_samples=4 -A env=OMP_NUM_THREADS=1 > "$dir/mlflow-run-server.log" 2>&1 || { tail -30 "$dir/mlflow-run-server.log"; fail "mlflow run docker against the server"; }
        ok "mlflow run docker -e wgan -A network=host, recorded in the stack's server"
    fi
    podman-compose --profile train run --rm -T --no-deps -e OMP_NUM_THREADS=1 trainer python -c "
import optuna
storage = 'postgresql+psycopg2://mlflow@database/studies'
study = optuna.create_study(storage=storage, study_name='verify')
study.optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=3)
assert len(optuna.load_study(storage=storage, study_name='verify').trials) == 3
" > "$dir/study.log" 2>&1 || { tail -20 "$dir/study.log"; fail "a study in the stack's PostgreSQL"; }
    ok "a study in the stack's PostgreSQL"
    podman-compose down > /dev/null 2>&1
    server_up
    MLFLOW_TRACKING_URI=$server python -c "
from mlflow import MlflowClient
assert MlflowClient().get_model_version_by_alias('wgan-generator', 'latest-good')" || fail "runs after down and up"
    ok "runs and registry are there after down and up"
    podman-compose down > /dev/null 2>&1
}

check_accounts() {
    say "accounts (compose.auth.yaml)"
    server_up -f compose.yaml -f compose.auth.yaml
    api="$server/api/2.0/mlflow/experiments/get?experiment_id=0"
    [ "$(code "$api")" = 401 ] || fail "without an account: $(code "$api")"
    [ "$(code -u admin:wrong "$api")" = 401 ] || fail "a wrong password is taken"
    [ "$(code -u "admin:$MLFLOW_ADMIN_PASSWORD" "$api")" = 200 ] || fail "the administrator is refused"
    ok "401 without an account, 401 with a wrong password, 200 with the right one"
}
