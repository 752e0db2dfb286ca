"""Feature networks: Inception beside torch-fidelity's, weights checked by hash, other networks, and the cache."""

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.fid import _Images, random_inception_state, sample_images
from common.errors import InputError
from evaluation.features import (
    INCEPTION_FILE,
    Extractor,
    Features,
    build_inception,
    cache_path,
    extract,
    file_extractor,
    inception_extractor,
    load_features,
    network_extractor,
    save_features,
    wrap_inception,
)
from evaluation.frechet import Gaussian, frechet_distance
from tracking.registry.models import open_program

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_inception_state()


def test_inception_is_torch_fidelitys_network(state: dict[str, Tensor]) -> None:
    """Folded batch norms and channels_last change nothing but the last digits, in features and logits."""
    images = sample_images(4, 64, 0)
    plain = build_inception(state)
    with torch.no_grad():
        expected, expected_logits = plain(images)
    extractor = wrap_inception(build_inception(state), "0" * 64, True, CPU)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in extractor.network.__closure__[1].cell_contents.modules())  # type: ignore
    x, logits = extractor.network(images)
    assert logits is not None
    assert x.shape == (4, extractor.dim)
    assert expected.std() > 0.01
    for ours, theirs in ((x, expected), (logits, expected_logits)):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_distance_equals_torch_fidelitys(state: dict[str, Tensor], tmp_path: Path) -> None:
    """In its 64-dimensional layer, whose covariance is regular for so few images, to 1e-6 relative."""
    from torch_fidelity import calculate_metrics

    path = tmp_path / "weights-inception-2015-12-05.pth"
    torch.save(state, path)
    a, b = sample_images(80, 32, 0), sample_images(80, 32, 1) // 2
    theirs = calculate_metrics(
        input1=_Images(a),
        input2=_Images(b),
        fid=True,
        cuda=False,
        batch_size=40,
        cache=False,
        verbose=False,
        feature_layer_fid="64",
        feature_extractor_weights_path=str(path),
        save_cpu_ram=True,
    )["frechet_inception_distance"]
    extractor = wrap_inception(build_inception(state, ["64"]), "0" * 64, True, CPU)
    ours = frechet_distance(*(Gaussian.of(extract(extractor, x.split(40)).moments) for x in (a, b)))
    assert ours > 1e-3
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_weights_are_checked_by_hash_and_other_weights_get_another_name(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / INCEPTION_FILE
    with pytest.raises(InputError, match=rf"not a file; get {INCEPTION_FILE} .*6726825d.* on a machine with internet"):
        inception_extractor(path, CPU)
    torch.save(state, path)
    with pytest.raises(InputError, match=r"has SHA-256 \w{8}\.\.\., not 6726825d"):
        inception_extractor(path, CPU)
    forced = inception_extractor(path, CPU, force=True)
    assert forced.score.startswith("fd_inception_")
    assert forced.kernel_score.startswith("kd_inception_")
    torch.save({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not hold torch-fidelity's Inception"):
        inception_extractor(path, CPU, force=True)


def test_weights_without_a_network_name_file_hash_and_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args: object, **keywords: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(
        InputError, match=rf"cannot be downloaded \(no route to host\); get {INCEPTION_FILE} .*weights=PATH"
    ):
        inception_extractor(None, CPU)


class Pooled(nn.Module):
    """The mean colour: a feature network whose values are known."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_torchscript_and_exported_files(tmp_path: Path) -> None:
    images = sample_images(5, 32, 0)
    expected = (images.float() / 127.5 - 1).mean((2, 3))
    torch.jit.script(Pooled()).save(str(tmp_path / "Mean Colour.pt"))  # type: ignore[no-untyped-call]
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.export.save(
        torch.export.export(Pooled(), (torch.zeros(2, 3, 40, 41),), dynamic_shapes=(sizes,)), tmp_path / "mean.pt2"
    )
    shutil.copy(tmp_path / "mean.pt2", tmp_path / "Größe.pt2")
    shutil.copy(tmp_path / "mean.pt2", tmp_path / "平均.pt2")
    names = (("Mean Colour.pt", "mean_colour"), ("mean.pt2", "mean"), ("Größe.pt2", "gr_e"), ("平均.pt2", ""))
    for name, score in names:
        extractor = file_extractor(tmp_path / name, CPU, open_program)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:8]
        assert (extractor.score, extractor.kernel_score) == (
            f"fd_{score}_{digest}".replace("__", "_"),
            f"kd_{score}_{digest}".replace("__", "_"),
        )
        assert extractor.dim == 3
        assert torch.allclose(extract(extractor, images.split(2)).x, expected, atol=1e-6)


def test_networks_of_one_file_name_have_scores_of_their_own(tmp_path: Path) -> None:
    for folder, network in (("a", nn.Flatten()), ("b", Pooled())):
        (tmp_path / folder).mkdir()
        torch.jit.script(network).save(str(tmp_path / folder / "digits.pt"))  # type: ignore[no-untyped-call]
    scores = {file_extractor(tmp_path / folder / "digits.pt", CPU, open_program).score for folder in ("a", "b")}
    assert len(scores) == 2
    assert "fd_digits" not in scores  # the built-in features'


def extractor_of(name: str, network: Callable[[Tensor], Tensor]) -> Extractor:
    return network_extractor(name=name, network=network, fingerprint="", family="", device=CPU)


def test_files_and_networks_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match="neither a TorchScript file nor"):
        file_extractor(tmp_path / "text.pt", CPU, open_program)
    with pytest.raises(InputError, match="neither inception, efficientnet, digits"):
        file_extractor(tmp_path / "absent.pt", CPU, open_program)
    with pytest.raises(InputError, match="does not take images"):
        extractor_of("linear", nn.Linear(5, 2))
    with pytest.raises(InputError, match="no tensor with a row for each image"):
        extractor_of("sum", lambda x: x.sum(0))


def test_constant_features_are_measured_and_nan_features_refused() -> None:
    constant = extractor_of("constant", lambda x: torch.ones(len(x), 3))
    features = extract(constant, sample_images(6, 32, 0).split(4))
    assert frechet_distance(Gaussian.of(features.moments), Gaussian.of(features.moments)) == 0
    seen = []

    def features(x: Tensor) -> Tensor:
        seen.append(len(x))
        y = torch.ones(len(x), 3)
        if len(seen) == 3:  # the first call only asks for the dimension
            y[4, 1] = torch.nan
        return y

    broken = extractor_of("broken", features)
    with pytest.raises(InputError, match="features=broken: those of image 10 are NaN or infinite, so no distance"):
        extract(broken, [sample_images(6, 32, 0)] * 5)
    assert len(seen) == 3


def test_cache_gives_back_what_was_kept_and_survives_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cache_path(["a", 1], tmp_path)
    assert path != cache_path(["a", 2], tmp_path)
    assert load_features(path) is None
    features = Features(torch.randn(4, 3), torch.randn(4, 2))
    save_features(path, features)
    kept = load_features(path)
    assert kept is not None
    assert kept.logits is not None
    assert torch.equal(kept.x, features.x)
    assert torch.equal(kept.logits, features.logits)  # type: ignore[arg-type]
    whole = path.read_bytes()
    for damaged in (
        whole[:50],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole[:-20] + bytes([whole[-20] ^ 128]) + whole[-19:],
    ):
        path.write_bytes(damaged)
        assert load_features(path) is None
        assert "is damaged" in capsys.readouterr().out
    save_file({"other": torch.zeros(2)}, path)
    assert load_features(path) is None
    save_features(Path("/proc/none/file"), features)
    assert "cannot be written" in capsys.readouterr().out


class Bomb:
    """A pickle of it calls `open(path, "w")` where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_program_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    good, bad, exploded = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "exploded"
    torch.export.save(torch.export.export(nn.Flatten(), (torch.zeros(2, 3, 32, 32),)), good)
    bomb = io.BytesIO()
    torch.save(Bomb(exploded), bomb)
    with zipfile.ZipFile(good) as whole, zipfile.ZipFile(bad, "w") as archive:
        for record in whole.infolist():
            pickled = record.filename.endswith("sample_inputs/model.pt")
            archive.writestr(record.filename, bomb.getvalue() if pickled else whole.read(record))
    assert open_program(good)(torch.zeros(2, 3, 32, 32)).shape == (2, 3072)
    with pytest.raises(InputError, match="not a pickle-free payload"):
        file_extractor(bad, CPU, open_program)
    assert not exploded.exists()
    with pytest.raises(AssertionError):
        torch.export.load(bad)
    assert exploded.exists()  # it is a real one
