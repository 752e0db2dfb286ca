"""Registered models of every kind, loaded and served where this project is not."""

import base64
import http.client
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from PIL import Image
from torch import nn

import models.gan.isir
from data.eeg.recording import fir_kernel
from evaluation.images import to_uint8
from models.eeg.simclr import ChannelEncoder
from models.eeg.transformer import EegTransformer, EpochClassifier
from models.gan.density_ratio import CoarsePixels, LogRatio, RatioSettings
from models.gan.digit_classifier import DigitClassifier
from models.gan.isir import I_SIR
from models.gan.networks import Critic, Generator
from tests.conftest import PATIENCE, ROOT
from tests.tracking.servers import ModelServer, serving_environment
from tracking import store
from tracking.registry.models import log_model
from tracking.run import start_run
from training.generators.stored import sampler_with

NZ, N_CHANS, N_TIMES = 64, 64, 801  # the quick presets', for which docs/serving.md has requests


class Registry:
    """A store with a model of every kind, the networks themselves, and an input for each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        torch.manual_seed(0)
        self.G, self.D = Generator(32, NZ, 16).eval(), Critic(32, 16).eval()
        with torch.no_grad():
            self.D.linear.weight.mul_(30)  # an untrained critic is nearly constant; this one decides something
        settings = RatioSettings(folds=2, width=16)
        self.ratio = nn.Sequential(CoarsePixels(8), LogRatio(64, settings)).eval()
        self.ratio[1].slope.fill_(30.0)  # type: ignore[operator, union-attr]
        transformer = EegTransformer(N_CHANS, patch_len=40, patch_stride=20, d_model=8, n_heads=2, d_ff=16, n_filters=4)
        self.networks: dict[str, torch.nn.Module] = {
            "wgan-critic": self.D,
            "eeg-transformer": EpochClassifier(
                transformer,
                torch.from_numpy(fir_kernel(160.0, 7, 30)),
                window=160,
                step=80,
                reference=100 * torch.eye(N_CHANS),
            ).eval(),
            "eeg-simclr-encoder": ChannelEncoder("convolutional", 0.04, (16, 8, 4, 8), n_features=4, decimate=2).eval(),
            "digits-features": DigitClassifier().eval(),
        }
        draws = torch.Generator().manual_seed(1)
        shapes = {
            "wgan-critic": (3, 32, 32),
            "eeg-transformer": (N_CHANS, N_TIMES),
            "eeg-simclr-encoder": (160,),
            "digits-features": (3, 32, 32),
        }
        self.inputs = {name: torch.randn(5, *shape, generator=draws) for name, shape in shapes.items()}
        self.inputs["eeg-transformer"] *= 2e-5  # volts
        self.codes = torch.randn(5, NZ, generator=draws)

    def register(self) -> None:
        with start_run("wgan", {}, output_dir=self.folder / "runs") as run:
            log_model(
                run,
                self.G,
                "generator",
                self.codes.numpy(),
                registered_name="wgan-generator",
                config={},
                sampler=sampler_with(self.D),
            )
            log_model(
                run,
                self.G,
                "generator",
                self.codes.numpy(),
                registered_name="generator-alone",
                config={},
                sampler=sampler_with(None),
            )
            log_model(
                run,
                self.G,
                "sampler",
                self.codes.numpy(),
                registered_name="wgan-sampler",
                config={},
                sampler=sampler_with(self.D, self.ratio, iterations=2),
            )
            for name, network in self.networks.items():
                example = self.inputs[name][:2].numpy()
                volts = {"epochs": {"unit": "V"}} if name == "eeg-transformer" else None
                key = name.replace("-", "_")
                log_model(run, network, key, example, registered_name=name, config={}, metadata=volts)

    def expected(self, name: str) -> np.ndarray:
        with torch.no_grad():
            return self.networks[name](self.inputs[name]).numpy()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder)
    there, before = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    os.chdir(folder)
    store.use(registry.uri)
    try:
        registry.register()
        yield registry
    finally:
        os.chdir(there)
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def loaded(registry: Registry) -> dict[str, Any]:
    """{name: pyfunc model} of every kind, loaded as a scoring server loads them."""
    os.environ[scoring_server._SERVER_MODEL_PATH] = ""
    names = ["wgan-generator", "generator-alone", "wgan-sampler", *registry.networks]
    models = {name: mlflow.pyfunc.load_model(f"models:/{name}@latest-good") for name in names}
    del os.environ[scoring_server._SERVER_MODEL_PATH]
    return models


# ------------------------------------------------------------------------------------------------- where the project is
# not

ELSEWHERE = """
import importlib.util, json, sys
import numpy as np

for package in ("tracking", "models", "trainers", "common"):
    assert importlib.util.find_spec(package) is None, package
unpickled = set()
sys.addaudithook(lambda event, args: unpickled.add(args[0]) if event == "pickle.find_class" else None)

import mlflow
from mlflow.cli import cli

inputs = dict(np.load("inputs.npz"))
outputs = {}
for name, x in inputs.items():
    uri = f"models:/{name}@latest-good"
    request = {"codes": x} if "generator" in name else x
    params = {"output": "float"} if "generator" in name else None
    outputs[f"{name}/alias"] = mlflow.pyfunc.load_model(uri).predict(request, params=params)
    cli(["artifacts", "download", "-u", uri, "-d", f"downloaded/{name}"], standalone_mode=False)
    outputs[f"{name}/downloaded"] = mlflow.pyfunc.load_model(f"downloaded/{name}").predict(request, params=params)
np.savez("outputs.npz", **outputs)
print(json.dumps(sorted(unpickled)))
"""


def test_every_kind_loads_by_alias_and_by_download_where_this_project_is_not(
    registry: Registry, tmp_path: Path
) -> None:
    inputs = {"wgan-generator": registry.codes, **registry.inputs}
    np.savez(tmp_path / "inputs.npz", **{name: x.numpy() for name, x in inputs.items()})
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path,
        env=serving_environment(registry.uri),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = {"wgan-generator": registry.G(registry.codes).numpy()}
    expected |= {name: registry.expected(name) for name in registry.networks}
    outputs = np.load(tmp_path / "outputs.npz")
    assert len(outputs.files) == 2 * len(expected)
    for name in expected:
        for way in ("alias", "downloaded"):
            np.testing.assert_allclose(outputs[f"{name}/{way}"], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    modules = {module.split(".")[0] for module in json.loads(done.stdout.splitlines()[-1])}
    assert modules <= {"torch", "collections", "numpy"}, modules


# -------------------------------------------------------------------------------------------------------------------
# sampler


def test_served_isir_is_the_module(registry: Registry, loaded: dict[str, Any]) -> None:
    """Same seed, same codes as models/gan/isir.py computes with the networks themselves; and not those it started
    from.
    """
    folder = Path(mlflow.artifacts.download_artifacts("models:/wgan-generator@latest-good"))
    assert (folder / "isir.py").read_bytes() == Path(models.gan.isir.__file__).read_bytes()
    for settings in ({"beta": 1.0, "weights": "importance"}, {"beta": 0.5, "weights": "density"}):
        params = {"isir_iterations": 3, "n_particles": 4, "seed": 5, "output": "float", **settings}
        served = loaded["wgan-generator"].predict({"n": 20}, params=params)
        random = torch.Generator().manual_seed(5)
        z = I_SIR(N_i=3, N_s=20, N_p=4, n_z=NZ, D=registry.D, G=registry.G, generator=random, **settings)
        with torch.no_grad():
            np.testing.assert_allclose(served, registry.G(z).numpy(), atol=1e-5)
    critic = loaded["wgan-critic"]
    plain = loaded["wgan-generator"].predict({"n": 150}, params={"seed": 5, "output": "float"})
    corrected = loaded["wgan-generator"].predict(
        {"n": 150}, params={"seed": 5, "output": "float", "isir_iterations": 5, "n_particles": 10, "beta": 10.0}
    )
    assert critic.predict(corrected).mean() > critic.predict(plain).mean() + 0.5 * critic.predict(plain).std()


def test_the_calibrated_sampler_is_isir_by_the_density_ratio(registry: Registry, loaded: dict[str, Any]) -> None:
    """In as many iterations as it was registered with, or as a request says; weights play no part."""
    for iterations, asked in ((2, {}), (3, {"isir_iterations": 3, "weights": "density"})):
        params = {"sampler": "calibrated", "n_particles": 4, "seed": 5, "output": "float", **asked}
        served = loaded["wgan-sampler"].predict({"n": 20}, params=params)
        random = torch.Generator().manual_seed(5)
        z = I_SIR(N_i=iterations, N_s=20, N_p=4, n_z=NZ, D=registry.ratio, G=registry.G, generator=random)
        with torch.no_grad():
            np.testing.assert_allclose(served, registry.G(z).numpy(), atol=1e-5)
    plain = loaded["wgan-sampler"].predict({"n": 20}, params={"seed": 5, "output": "float"})
    assert not np.allclose(plain, served, atol=1e-3)
    with pytest.raises(MlflowException, match="8192 to make"):
        loaded["wgan-sampler"].predict({"n": 256}, params={"sampler": "calibrated", "n_particles": 50})


def test_outputs_of_a_sampler(registry: Registry, loaded: dict[str, Any]) -> None:
    model = loaded["wgan-generator"]
    with torch.no_grad():
        expected = to_uint8(registry.G(registry.codes)).numpy()
    pixels = model.predict({"codes": registry.codes.numpy()})
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # the exported program rounds otherwise in the last bit
    assert (pixels == expected).mean() > 0.99
    files = model.predict({"codes": registry.codes.tolist()}, params={"output": "png"})
    for image, file in zip(pixels, files, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(file))) as opened:
            assert (opened.format, opened.size, opened.mode) == ("PNG", (32, 32), "RGB")
            np.testing.assert_array_equal(np.asarray(opened).transpose(2, 0, 1), image)
    with torch.no_grad():
        codes = torch.randn(
            3, NZ, generator=torch.Generator().manual_seed(7)
        )  # the codes that `fid` draws for this seed
        drawn = registry.G(codes).numpy()
    np.testing.assert_allclose(model.predict({"n": 3}, params={"seed": 7, "output": "float"}), drawn, atol=1e-5)
    first, second = (model.predict({"n": 3}) for _ in range(2))
    assert not np.array_equal(first, second)  # without a seed, other images each time


def test_a_generator_without_critic_samples_and_says_why_it_cannot_correct(loaded: dict[str, Any]) -> None:
    assert loaded["generator-alone"].predict({"n": 2}).shape == (2, 3, 32, 32)
    with pytest.raises(MlflowException, match="registered without a critic"):
        loaded["generator-alone"].predict({"n": 2}, params={"isir_iterations": 1})


def test_limits_are_settings_of_the_server(registry: Registry) -> None:
    model = mlflow.pyfunc.load_model(
        "models:/wgan-generator@latest-good", model_config={"max_images": 2, "max_work": 20}
    )
    assert len(model.predict({"n": 2})) == 2
    with pytest.raises(MlflowException, match="allowed are 2 to return"):
        model.predict({"n": 3})
    with pytest.raises(MlflowException, match="20 to make"):
        model.predict({"n": 2}, params={"isir_iterations": 3, "n_particles": 4})


def test_signature_and_example_say_how_to_ask(loaded: dict[str, Any]) -> None:
    metadata = loaded["wgan-generator"].metadata
    assert [column.name for column in metadata.get_input_schema()] == ["n", "codes"]
    assert {param.name: param.default for param in metadata.get_params_schema()} == {
        "seed": None,
        "output": "uint8",
        "sampler": "critic",
        "isir_iterations": 0,
        "n_particles": 10,
        "beta": 1.0,
        "weights": "importance",
    }
    folder = Path(mlflow.artifacts.download_artifacts("models:/wgan-generator@latest-good"))
    example = json.loads((folder / "serving_input_example.json").read_text())
    status, answer = ask(loaded["wgan-generator"], example)
    assert status == 200
    assert np.array(answer["predictions"]).shape == (4, 3, 32, 32)


# ------------------------------------------------------------------------------------------------------- malformed
# requests


def ask(model: Any, body: object, content_type: str | None = "application/json") -> tuple[int, Any]:
    """What MLflow's scoring server answers, without a socket in between."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    try:
        answer = scoring_server.invocations(text, content_type, model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), json.loads(error.serialize_as_json())
    return answer.status, json.loads(answer.response)


ZEROS = [0.0] * NZ

# (request to a generator, words of the answer)
SAMPLER_FAULTS: list[tuple[object, str]] = [
    ("nonsense", "valid JSON"),
    ([1], "JSON dictionary"),
    ({"params": {"seed": 1}}, "exactly one of the input fields"),
    ({"inputs": {}}, "give either n, a number of images, or codes, [n][64] numbers; given: neither"),
    ({"inputs": {"N": 3}}, "given: neither"),
    ({"inputs": {"n": 2, "codes": [ZEROS]}}, "given: ['codes', 'n']"),
    ({"inputs": {"n": 0}}, "n=0: a whole number of images, at least 1"),
    ({"inputs": {"n": 2.5}}, "n=2.5: a whole number"),
    ({"inputs": {"n": "two"}}, "n='two': a whole number"),
    ({"inputs": {"n": True}}, "n=True: a whole number"),
    ({"inputs": {"n": None}}, "given: neither (null and NaN count as not given)"),
    ('{"inputs": {"n": NaN}}', "given: neither"),
    ({"inputs": {"n": 10**20}}, "allowed are 256 to return and 8192 to make"),
    ({"inputs": {"n": 256}, "params": {"isir_iterations": 100}}, "8192 to make"),
    ("[" * 100_000, "nested too deeply"),
    ('{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"inputs": {"n": ' + "9" * 5000 + "}}", "the request cannot be read (ValueError: Exceeds the limit"),
    ('{"inputs": {"codes": [[' + "9" * 400 + "]]}}", "codes: "),
    ({"inputs": {"codes": [[1, 2]]}}, "codes: shape [1, 2]; needed is [n, 64]"),
    ({"inputs": {"codes": ZEROS}}, "Expected data to be list or numpy array"),
    ({"inputs": {"codes": []}}, "codes: shape [0]"),
    ({"inputs": {"codes": [ZEROS, [0.0]]}}, "inhomogeneous"),
    ({"inputs": {"codes": [["a"] * NZ]}}, "numbers are needed"),
    ({"inputs": {"codes": [[math.nan] * NZ]}}, "NaN, null or infinite"),
    ({"inputs": {"codes": [[None, *ZEROS[1:]]]}}, "NaN, null or infinite"),
    ({"inputs": {"codes": [[1e300] * NZ]}}, "NaN, null or infinite"),
    ({"inputs": {"codes": [ZEROS]}, "params": {"isir_iterations": 2}}, "I-SIR goes with n"),
    ({"inputs": {"n": 2}, "params": {"sampler": "x"}}, "sampler='x': allowed are critic, calibrated"),
    ({"inputs": {"n": 2}, "params": {"sampler": "calibrated"}}, "registered without a density ratio; serve"),
    ({"dataframe_records": [{"n": 1}, {"n": 2}]}, "2 rows: a request has one"),
    ({"inputs": {"n": 2}, "params": {"output": "jpg"}}, "output='jpg': allowed are uint8, float, png"),
    ({"inputs": {"n": 2}, "params": {"isir_iterations": -1}}, "isir_iterations=-1 must be at least 0"),
    ({"inputs": {"n": 2}, "params": {"isir_iterations": 1, "n_particles": 0}}, "n_particles=0 at least 1"),
    ({"inputs": {"n": 2}, "params": {"n_particles": None}}, "n_particles: null"),
    ({"inputs": {"n": 2}, "params": {"weights": "x"}}, "weights='x': allowed are importance, density"),
    ({"inputs": {"n": 2}, "params": {"isir_iterations": 1, "beta": math.inf}}, "beta=inf: it must be a finite number"),
    ({"inputs": {"n": 2}, "params": {"seed": "x"}}, "Can not safely convert"),
    ({"inputs": {"n": 2}, "params": {"seed": -1}}, "seed=-1 must be at least 0"),
    ({"inputs": {"n": 2}, "params": [1]}, "Parameters must be a dictionary"),
]


def network_faults(x: np.ndarray) -> list[tuple[object, str]]:
    """(request to a network with inputs like x, words of the answer)."""
    spoilt = x[:2].copy()
    spoilt.reshape(2, -1)[1, 3] = np.nan
    return [
        ("nonsense", "valid JSON"),
        ({"params": {}}, "exactly one of the input fields"),
        ("[" * 100_000, "nested too deeply"),
        ('{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"inputs": [' + "9" * 5000 + "]}", "the request cannot be read (ValueError: Exceeds the limit"),
        ('{"inputs": [' + "9" * 400 + "]}", "needed is [n, "),
        ({"inputs": x[:2, ..., :-1].tolist()}, f"has shape {[2, *x.shape[1:-1], x.shape[-1] - 1]}; needed is [n, "),
        ({"inputs": x[0].tolist()}, f"has shape {list(x.shape[1:])}; needed is [n, "),
        ({"inputs": []}, "an input of type <class 'list'> was found"),
        ({"inputs": 3}, "has shape []; needed is [n, "),
        ({"inputs": {"x": x[:2].tolist()}}, "expects a single n-dimensional array"),
        ({"inputs": "abc"}, "could not convert string to float"),
        ({"inputs": np.full(x[:1].shape, "a").tolist()}, "could not convert string to float"),
        ({"inputs": [x[0].tolist(), [1.0]]}, "needed is [n, "),
        (
            {"inputs": spoilt.tolist()},
            f"1 of {spoilt.size} input values are NaN, null or infinite (the first in row 1)",
        ),
        ({"inputs": json.loads(json.dumps(spoilt.tolist()).replace("NaN", "null"))}, "NaN, null or infinite"),
        ({"inputs": np.full(x[:1].shape, 1e300).tolist()}, "NaN, null or infinite"),
    ]


def check_refused(answered: tuple[int, Any], request: object, words: str) -> None:
    status, answer = answered
    assert status == 400, (request, answer)
    assert words in answer["message"], answer["message"]
    assert "stack_trace" not in answer
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_malformed_requests_are_refused_with_the_reason(registry: Registry, loaded: dict[str, Any]) -> None:
    for request, words in SAMPLER_FAULTS:
        check_refused(ask(loaded["wgan-generator"], request), request, words)
    for name in registry.networks:
        for request, words in network_faults(registry.inputs[name].numpy()):
            check_refused(ask(loaded[name], request), request, words)


OTHER_KINDS = [
    (b"\xff\xfe", "text/csv"),
    ("n,n\n1,2,3\n1\n", "text/csv"),
    ('"' * 99, "text/csv"),
    (b"PAR1 no parquet", "application/vnd.apache.parquet"),
    (b'{"inputs": {"n": 1}}\xff', "application/json"),
]


def test_requests_of_other_kinds_are_refused_without_a_traceback(
    loaded: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("wgan-generator", "eeg-transformer"):
        for request, content_type in OTHER_KINDS:
            check_refused(ask(loaded[name], request, content_type), request, "")
        for missing in (None, "", "image/png"):
            answer = scoring_server.invocations(b"", missing, loaded[name], None)
            assert answer.status == 415
    assert "Traceback" not in capfd.readouterr().err


def test_a_long_request_and_a_long_message_are_cut_short(loaded: dict[str, Any]) -> None:
    status, answer = ask(loaded["wgan-generator"], " " * 33_000_000)
    assert status == 413
    assert "33.0 MB, allowed are 32 MB: send less at a time (the server's setting max_request_mb)" in answer["message"]
    status, answer = ask(loaded["wgan-generator"], "x" * 1_000_000)
    assert status == 400
    assert len(answer["message"]) < 2500


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
def test_arrays_of_any_type_of_number_are_answered(registry: Registry, loaded: dict[str, Any], dtype: type) -> None:
    for name, x in registry.inputs.items():
        values = x.numpy().astype(dtype)
        if name == "eeg-transformer" and dtype in (np.float16, np.int64):
            continue  # volts are 0 in those
        with torch.no_grad():
            expected = registry.networks[name](torch.from_numpy(values.astype(np.float32))).numpy()
        np.testing.assert_allclose(loaded[name].predict(values), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_epochs_in_another_unit_are_refused(registry: Registry, loaded: dict[str, Any]) -> None:
    volts = registry.inputs["eeg-transformer"].numpy().astype(np.float64)
    for factor in (1e3, 1e6):
        with pytest.raises(MlflowException, match=r"row \d have a standard deviation of .* send volts"):
            loaded["eeg-transformer"].predict(volts * factor)
    offset = volts + 0.2  # of an amplifier that measures direct current
    assert np.isfinite(loaded["eeg-transformer"].predict(offset)).all()
    for name in ("eeg-simclr-encoder", "wgan-critic"):  # these take no volts
        assert np.isfinite(loaded[name].predict(registry.inputs[name].numpy() * 10)).all()


def test_the_shape_that_a_network_takes_stands_in_its_metadata(loaded: dict[str, Any]) -> None:
    assert loaded["eeg-transformer"].metadata.metadata["input"] == {"shape": [-1, 64, 801], "dtype": "float32"}


def test_a_request_is_one_batch(registry: Registry, loaded: dict[str, Any]) -> None:
    """This classifier is aligned: the answer for an epoch depends on those it comes with, so a request must not be
    split.
    """
    x = torch.randn(80, N_CHANS, N_TIMES, generator=torch.Generator().manual_seed(2)) * 2e-5
    x[64:, :32] *= 5
    with torch.no_grad():
        expected = registry.networks["eeg-transformer"](x)
        alone = registry.networks["eeg-transformer"](x[:64])
    assert not torch.allclose(expected[:64], alone, atol=1e-3)
    np.testing.assert_allclose(loaded["eeg-transformer"].predict(x.numpy()), expected.numpy(), atol=1e-4)
    with pytest.raises(MlflowException, match="the request has no rows"):
        loaded["eeg-transformer"].predict(x[:0].numpy())


# ---------------------------------------------------------------------------------------------------------------- over
# HTTP


def served(registry: Registry, tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[ModelServer]:
    server = ModelServer(tmp_path_factory.mktemp("serve"), registry.uri, f"models:/{name}@latest-good")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def generator_server(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    yield from served(registry, tmp_path_factory, "wgan-generator")


def test_a_generator_over_http(registry: Registry, generator_server: ModelServer) -> None:
    status, answer = generator_server.post(
        {"inputs": {"codes": registry.codes.tolist()}, "params": {"output": "float"}}
    )
    assert status == 200
    with torch.no_grad():
        np.testing.assert_allclose(answer["predictions"], registry.G(registry.codes).numpy(), atol=1e-5)
    settings = {"isir_iterations": 3, "n_particles": 4, "beta": 2.0, "seed": 5, "output": "float"}
    status, answer = generator_server.post({"inputs": {"n": 20}, "params": settings})
    assert status == 200
    z = I_SIR(
        N_i=3, N_s=20, N_p=4, n_z=NZ, D=registry.D, G=registry.G, beta=2.0, generator=torch.Generator().manual_seed(5)
    )
    with torch.no_grad():
        np.testing.assert_allclose(answer["predictions"], registry.G(z).numpy(), atol=1e-5)
    status, answer = generator_server.post({"inputs": {"n": 2}, "params": {"output": "png"}})
    assert status == 200
    assert all(base64.b64decode(file).startswith(b"\x89PNG") for file in answer["predictions"])
    for request, words in SAMPLER_FAULTS:
        check_refused(generator_server.post(request), request, words)
    log = generator_server.log()
    assert "Traceback" not in log
    assert "POST" not in log  # quiet


def answer_to(server: ModelServer, head: str, parts: Iterator[bytes]) -> tuple[int, Any]:
    """(status, parsed answer) of a request whose body is sent in `parts`."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        opening = "POST /invocations HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{opening}{head}\r\n\r\n".encode())
        for part in parts:
            connection.sendall(part)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


def test_a_body_that_is_too_long_is_not_read(generator_server: ModelServer) -> None:
    status, answer = answer_to(generator_server, "Content-Length: 5000000000", iter(()))  # and nothing of it is sent
    assert status == 413
    assert answer["message"].startswith("the request has 5000.0 MB, allowed are 32 MB: send less at a time")

    # One byte too much, and then nothing: a server that has all of it read can answer before it hangs up.
    sizes = [*[1_000_000] * 32, 1]
    too_long = (b"%x\r\n%s\r\n" % (size, b"1" * size) for size in sizes)
    status, answer = answer_to(generator_server, "Transfer-Encoding: chunked", too_long)
    assert status == 413
    assert answer["message"].startswith("the request has more than 32 MB, allowed are 32 MB: send less at a time")
    request = json.dumps({"inputs": {"n": 2}}).encode()
    chunks = iter([b"%x\r\n%s\r\n" % (len(part), part) for part in (request[:7], request[7:])] + [b"0\r\n\r\n"])
    status, answer = answer_to(generator_server, "Transfer-Encoding: chunked", chunks)
    assert status == 200
    assert len(answer["predictions"]) == 2


DOCUMENT = (ROOT / "docs" / "serving.md").read_text()


def documented(server: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks of docs/serving.md that are marked with this server's name."""
    blocks = re.findall(rf"<!-- {server} -->\n```(\w+)\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert blocks, server
    return blocks


def run_documented(server: ModelServer, name: str, folder: Path) -> str:
    """Run what the document says, in one folder, against this server's port; everything that was printed."""
    printed = []
    for language, text in documented(name):
        assert language in ("bash", "python")
        text = text.replace("127.0.0.1:5001", f"127.0.0.1:{server.port}")
        command = ["bash", "-ec", text] if language == "bash" else [sys.executable, "-c", text]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, (text, done.stderr)
        printed.append(done.stdout)
    return "\n".join(printed)


def test_the_documented_requests_to_a_generator(generator_server: ModelServer, tmp_path: Path) -> None:
    printed = run_documented(generator_server, "wgan-generator", tmp_path)
    with Image.open(tmp_path / "image_3.png") as image:
        assert image.size == (32, 32)
    assert "(64, 3, 32, 32) uint8" in printed
    assert "(2, 3, 32, 32) between -1 and 1" in printed
    assert "400: n=2.5: a whole number of images, at least 1" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eeg-transformer", "eeg-simclr-encoder", "wgan-critic"])
def test_other_kinds_over_http(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str
) -> None:
    for server in served(registry, tmp_path_factory, name):
        x = registry.inputs[name]
        status, answer = server.post({"inputs": x.tolist()})
        assert status == 200
        np.testing.assert_allclose(answer["predictions"], registry.expected(name), rtol=1e-4, atol=1e-5)
        status, one = server.post({"instances": x[:1].tolist()})
        assert status == 200
        with torch.no_grad():
            alone = registry.networks[name](x[:1]).numpy()
        np.testing.assert_allclose(one["predictions"], alone, rtol=1e-4, atol=1e-5)
        if name == "eeg-transformer":
            printed = run_documented(server, name, tmp_path)
            assert re.search(r"left 0\.\d\d\d?, right 0\.\d\d\d?", printed)
            assert "400: the request has shape [2, 64, 800]; needed is [n, 64, 801] with n of at least 1" in printed
            np.testing.assert_allclose(np.sum(answer["predictions"], axis=1), 1, atol=1e-5)
        for request, words in network_faults(x.numpy()):
            check_refused(server.post(request), request, words)
        assert "Traceback" not in server.log()
