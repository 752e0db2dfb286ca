"""Models in MLflow's registry that load anywhere without this project and without unpickling.

A registered model is MLflow's `pt2` flavour (a `torch.export` program: the graph and its weights) with signature and
input example; `served.py`, which answers requests to it (tracking/serving/flavour.py); and `weights/model.safetensors`
with `weights/config.json`, from which a trainer builds the module again to train it further.
"""

import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.archives import check_unpacked_size
from common.errors import InputError
from common.files import hash_of
from common.tensors import load_tensors, save_tensors
from tracking.registry.evaluations import Evaluation, evaluation_tags
from tracking.registry.programs import Program, quiet
from tracking.run import AnyRun
from tracking.serving.flavour import Sampler, serve_by_network, serve_by_sampler
from tracking.silent_run import SilentRun

WEIGHTS_FOLDER, WEIGHTS_NAME, CONFIG_NAME = "weights", "model.safetensors", "config.json"

REGISTER_PATIENCE = 30.0
"""Seconds that `log_model` waits for a server that does not answer; the model is registered later then."""


@dataclass(frozen=True)
class ModelInfo:
    """A registered model: `models:/name/version`.

    While the server is away, `uri` is a local folder and `version` None.
    """

    uri: str
    name: str
    version: int | None


class NoWeights(InputError):
    """There is no such model, or it has no weights that a trainer could build a module from."""


def log_model(
    run: AnyRun,
    module: torch.nn.Module | Program,
    name: str,
    example: np.ndarray,
    *,
    registered_name: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    alias: str | None = "latest-good",
    step: int = 0,
    sampler: Sampler | None = None,
    evaluations: Sequence[Evaluation] = (),
) -> ModelInfo:
    """Register `module` (in eval mode, on the CPU; `module` itself is left as it is) as a new version of
    `registered_name`.

    Args:
        module: or its Program, where it is written several times. example: an input batch of at least 2 (a batch of 1
        would freeze the batch size at 1); its other dimensions are fixed. config: what the module's constructor needs,
        as JSON values; `load_weights` gives it back. metrics: shown on the model's page, and on the run's at `step`
        unless the run has that value already. metadata: any JSON facts, kept in the model's MLmodel file. alias: moved
        to the new version. sampler: of a generator, which is then served as a sampler of images instead of as an array
        in, an array out.
        evaluations: what `promote` compares versions by.

    If the server is away the model is saved in the run's folder and registered when the backlog is delivered.
    Raises ValueError for an example that would freeze the batch or a module that `torch.export` can't trace.
    """
    if isinstance(run, SilentRun):
        return ModelInfo("", registered_name, None)
    if example.ndim < 1 or example.shape[0] < 2:
        raise ValueError(
            f"log_model {name}: the example has shape {example.shape}; a batch of at least 2 keeps the batch size free"
        )
    folder = run.folder / "models" / f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        save_model(folder, module, example=example, config=config, metadata=metadata or {}, sampler=sampler)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    run.register(
        folder=str(folder.relative_to(run.folder)),
        name=name,
        registered_name=registered_name,
        # By run and content: a run that is resumed after the registration makes no second version.
        upload=hash_of([run.folder.name, registered_name, name, _content_of(folder)]),
        step=step,
        alias=alias,
        metrics={key: float(value) for key, value in (metrics or {}).items()},
        params=dict(params or {}),
        tags={key: str(value) for key, value in (tags or {}).items()} | evaluation_tags(evaluations, run.run_id),
    )
    run.deliver(REGISTER_PATIENCE)
    return _registered(folder, registered_name)


def save_model(
    folder: Path,
    module: torch.nn.Module | Program,
    example: np.ndarray,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    sampler: Sampler | None = None,
) -> None:
    """Write the MLflow model and its weights to `folder`, which must not exist.

    Leaves the module and the global RNG as they are.
    """
    program = module if isinstance(module, Program) else Program(module, example)
    packages = ("mlflow", "torch", "numpy", *(("pillow",) if sampler else ()))
    with torch.random.fork_rng(devices=[]), quiet():
        program.write(folder, metadata, packages)
        if sampler is None:
            in_volts = metadata.get("epochs", {}).get("unit") == "V"
            serve_by_network(folder, example.shape[1:], in_volts)
        else:
            for name, rater in sampler.raters.items():
                rates = rater if isinstance(rater, Program) else Program(rater, program.output.numpy())
                rates.write(folder / name, {}, packages)
            serve_by_sampler(folder, sampler, nz=example.shape[1], image_shape=program.output.shape[1:])
    weights = folder / WEIGHTS_FOLDER
    weights.mkdir()
    save_tensors(weights / WEIGHTS_NAME, program.module.state_dict())
    (weights / CONFIG_NAME).write_text(json.dumps(dict(config), indent=1, default=str) + "\n")


def load_weights(uri: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict and architecture config of a model that `log_model` stored.

    `uri`: `models:/name/version`, `models:/name@alias`, `models:/name` (newest), `runs:/<run id>/<name>`, or
    a local folder or `.safetensors` file. Raises InputError where there is no such model or it has no
    weights.
    """
    if re.match(r"(models|runs):/", uri):
        with tempfile.TemporaryDirectory() as folder:
            return _read_weights(_downloaded(uri, Path(folder)), uri)
    path = Path(uri.removeprefix("file://"))
    if not _exists(path):
        raise InputError(
            f"model {uri}: no such file or folder; give one, or models:/name/version, models:/name@alias, models:/name"
        )
    return _read_weights(path, uri)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def load_program(uri: str) -> tuple[Any, str]:
    """The exported program of a stored model as a callable on tensors, and the SHA-256 of its file.

    `uri` as in `load_weights`, without the files. InputError where there is none: a pickled model is not opened.
    """
    import mlflow.artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet():
                path = Path(
                    mlflow.artifacts.download_artifacts(f"{_artifact_uri(pinned(uri))}/data/model.pt2", dst_path=folder)
                )
            program = open_program(path)
        except Exception as error:
            from tracking import store

            raise InputError(
                f"model {uri}: no exported program (data/model.pt2) of it can be read: {store.reason(error)}"
            ) from None
        return program, hashlib.sha256(path.read_bytes()).hexdigest()


def load_pyfunc(uri: str) -> tuple[Any, int | None, str] | None:
    """(predict of the model's python_function, the length of its input rows if its signature says it, its address with
    the version's number); None where there is no such model, or it has no python_function.

    It runs the model's own code, as `mlflow models serve` does: for addresses that the user names.
    """
    import mlflow.pyfunc

    try:
        address = pinned(uri)
        with quiet():
            model = mlflow.pyfunc.load_model(_artifact_uri(address))
    except Exception:
        return None
    schema = model.metadata.get_input_schema()
    shape: tuple[int, ...] = schema.inputs[0].shape if schema is not None and schema.is_tensor_spec() else ()
    return model.predict, int(shape[1]) if len(shape) == 2 and shape[1] > 0 else None, address


def open_program(path: Path) -> Any:
    """The exported program in a .pt2 file as a callable on tensors.

    `torch.export.load` unpickles what lies in the file. So MLflow's check comes first, which lets pass what holds
    tensors and plain values only; it raises MlflowException for other files. ValueError for one that would unpack to
    far more than its size.
    """
    from mlflow.pytorch import _validate_pt2_archive_is_pickle_free

    check_unpacked_size(path)
    _validate_pt2_archive_is_pickle_free(str(path))
    return torch.export.load(path).module()


def run_of(uri: str) -> str:
    """The id of the run that made the stored model `models:/...` or `runs:/...`; InputError if it has none."""
    from tracking import store

    client = store.connect(store.tracking_uri())
    try:
        if match := re.fullmatch(r"runs:/([^/]+)/.+", uri):
            run_id = client.get_run(match[1]).info.run_id
        elif match := re.fullmatch(r"models:/([^/@]+)/(\d+)", pinned(uri)):
            run_id = client.get_model_version(match[1], match[2]).run_id
        else:
            raise InputError(
                f"model {uri}: not models:/name/version, models:/name@alias, models:/name or runs:/id/name"
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model {uri}: {store.reason(error)} (store {store.shown()})") from None
    if not run_id:
        raise InputError(f"model {uri}: it was registered without a run")
    return str(run_id)


def pinned(uri: str) -> str:
    """`models:/name` as its newest version and `models:/name@alias` as the version that it names now; other addresses
    as they are.

    Raises InputError where there is none.
    """
    from tracking import store

    if match := re.fullmatch(r"models:/([^/@]+)@(.+)", uri):
        try:
            client = store.connect(store.tracking_uri())
            found = client.get_model_version_by_alias(match[1], match[2])
        except Exception as error:
            raise InputError(
                f"model {uri}: {store.reason(error)} (store {store.shown()}); {_instead_of(match[1], 'alias')}"
            ) from None
        return f"models:/{match[1]}/{found.version}"
    name = re.fullmatch(r"models:/([^/@]+)", uri)
    if name and not re.fullmatch(r"m-[0-9a-f]{32}", name[1]):  # models:/m-... is the id of a logged model, not a name
        return newest_model(name[1]).uri
    return uri


def served_address(uri: str) -> str:
    """`pinned(uri)`, once its MLmodel file was read: what `mlflow models serve` can load.

    Raises InputError where there is no MLflow model.
    """
    import mlflow.models

    from tracking import store

    if not re.match(r"[a-z][a-z0-9+.-]+:", uri) and not (Path(uri) / "MLmodel").is_file():
        raise InputError(
            f"model {uri}: no folder of an MLflow model; give one (it holds MLmodel), published weights such as "
            "pretrained/digits32, models:/name/version, models:/name@alias or runs:/id/name"
        )
    uri = pinned(uri)
    try:
        store.connect(store.tracking_uri())
        with quiet():
            mlflow.models.get_model_info(uri)
    except InputError:
        raise
    except Exception as error:
        name = re.fullmatch(r"models:/([^/@]+)/\d+", uri)
        instead = f"; {_instead_of(name[1], 'version')}" if name else ""
        raise InputError(f"model {uri}: {store.reason(error)} (store {store.shown()}){instead}") from None
    return uri


def _instead_of(name: str, missing: str) -> str:
    """What to do where the registered model has no such alias or version: those that are there, if there are any."""
    from tracking import store

    try:
        client = store.connect(store.tracking_uri())
        found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=20)
    except Exception:  # then the store's own error says it
        return "train one first, or name the store by MLFLOW_TRACKING_URI"
    if not found:
        return "train one first, or name the store by MLFLOW_TRACKING_URI"
    versions = ", ".join(f"models:/{name}/{version.version}" for version in found)
    return f"it has no such {missing}; give a version, the newest first: {versions}"


def newest_model(name: str, **tags: Any) -> ModelInfo:
    """The newest version of the registered model `name` whose tags have all the values given.

    InputError if there is none.
    """
    from tracking import store

    uri = store.shown()
    filters = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
    try:
        found = store.connect(store.tracking_uri()).search_model_versions(" and ".join(filters), max_results=1000)
    except Exception as error:
        raise InputError(f"model {name}: the store {uri} failed: {store.reason(error)}") from None
    if not found:
        wanted = f" with {', '.join(f'{key}={value}' for key, value in tags.items())}" if tags else ""
        raise InputError(
            f"model {name}: {uri} has no version of it{wanted}; train one first, or set "
            "MLFLOW_TRACKING_URI to the store that has one"
        )
    newest = max(int(version.version) for version in found)
    return ModelInfo(f"models:/{name}/{newest}", name, newest)


def _downloaded(uri: str, folder: Path) -> Path:
    """The weights of a stored model, in `folder`."""
    import mlflow.artifacts

    from tracking import store

    uri = pinned(uri)
    try:
        store.connect(store.tracking_uri())
        with quiet():
            for file in (WEIGHTS_NAME, CONFIG_NAME):
                mlflow.artifacts.download_artifacts(
                    f"{_artifact_uri(uri)}/{WEIGHTS_FOLDER}/{file}", dst_path=str(folder)
                )
    except InputError:
        raise
    except Exception as error:
        raise NoWeights(f"model {uri}: {store.reason(error)} (store {store.shown()})") from None
    return folder


def _artifact_uri(uri: str) -> str:
    """The address of the model's files, to which a path inside can be added."""
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    if uri.startswith("runs:/"):
        run_id, name = RunsArtifactRepository.parse_runs_uri(uri)
        from tracking import store

        client = store.connect(store.tracking_uri())
        experiment = client.get_run(run_id).info.experiment_id
        found = client.search_logged_models([experiment], f"source_run_id = '{run_id}' and name = '{name}'")
        if not found:
            raise FileNotFoundError(f"run {run_id} has no model called {name}")
        return str(max(found, key=lambda model: model.creation_timestamp).artifact_location)
    return str(ModelsArtifactRepository.get_underlying_uri(uri))


def _read_weights(path: Path, uri: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if path.is_dir():
        # Not at any depth: the folder may be the whole disk.
        inside = sorted(found for above in ("", "*/", "*/*/") for found in path.glob(f"{above}{WEIGHTS_NAME}"))
        if not inside:
            raise InputError(
                f"model {uri}: no {WEIGHTS_FOLDER}/{WEIGHTS_NAME} in it; it was not registered by this project"
            )
        path = inside[0]
    try:
        tensors = load_tensors(path)
    except (ValueError, OSError) as error:
        raise InputError(f"model {uri}: {path.name}: {error}") from None
    config_file = path.with_name(CONFIG_NAME)
    if not config_file.is_file():
        raise InputError(f"model {uri}: no {CONFIG_NAME} beside {path.name}; it says how to build the network")
    try:
        config = json.loads(config_file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"model {uri}: {CONFIG_NAME} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"model {uri}: {CONFIG_NAME} holds no JSON object")
    return tensors, config


def _content_of(folder: Path) -> list[str]:
    """Hashes of a saved model's weights and of what its constructor needs."""
    files = (folder / WEIGHTS_FOLDER / WEIGHTS_NAME, folder / WEIGHTS_FOLDER / CONFIG_NAME)
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _registered(folder: Path, name: str) -> ModelInfo:
    """What the delivery wrote beside the saved model; the local folder if it was not delivered."""
    result = folder.parent / f"{folder.name}.json"
    if not result.is_file():
        print(
            f"tracking: {name} is saved in {folder.absolute()}; the registry gets it when the server is back (python "
            "-m tracking sync)"
        )
        return ModelInfo(str(folder), name, None)
    found = json.loads(result.read_text())
    if "version" not in found:
        result.unlink()
        kept = folder.parent.parent.absolute() / "refused" / folder.name
        print(f"tracking: {name} is not registered: {found['refused']}; it is kept in {kept}")
        return ModelInfo(str(kept), name, None)
    version = int(found["version"])
    shutil.rmtree(folder, ignore_errors=True)
    result.unlink()
    return ModelInfo(f"models:/{name}/{version}", name, version)
