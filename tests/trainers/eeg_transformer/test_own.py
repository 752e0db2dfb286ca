"""Recordings of one's own, from inspect to a served answer; more than two classes; what a montage cannot do."""

import csv
import importlib
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.survey import OwnFiles
from tests.conftest import PATIENCE
from tests.data.eeg.own_files import own_raw, write_own, write_recording
from tests.data.eeg.test_own import change
from tests.running import client, environment, run_trainer, runs
from trainers.eeg_simclr.comparison import NAMES as SIMCLR_NAMES
from trainers.eeg_simclr.comparison import plot_label_shares
from trainers.eeg_simclr.config import PRESETS as SIMCLR_PRESETS
from trainers.eeg_transformer.config import PRESETS, EegTransformerConfig
from trainers.tune.targets import load_target
from training.config import parse_config
from training.eeg.baselines import baseline_inputs, classical_log_probabilities
from training.eeg.config import presets_for, presets_of
from training.eeg.load import load_data
from training.eeg.records import results_text
from training.eeg.results import Predictions, evaluate, moabb_table, subjects_table
from training.eeg.slices import ALL, electrode_sets, lateral_mirror

HANDS = "left_hand,right_hand"
FEW = {"n_updates": 5, "n_networks": 1, "epochs": 1, "updates_per_epoch": 1, "tmin": -0.5, "tmax": 4}


def load(folder: Path, classes: tuple[str, ...]) -> EegData:
    own = OwnFiles(classes=classes)
    return load_eeg("recordings", folder / "cache", folder, subjects="all", runs="all", own=own, quiet=True)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> EegData:
    """Three people, three classes of which two are a left and a right one."""
    folder = write_own(
        tmp_path_factory.mktemp("three"), ".edf", runs=1, n_trials=12, classes=("feet", "left_hand", "right_hand")
    )
    return load(folder, ("left_hand", "right_hand", "feet"))


def test_baselines_answer_for_every_class(three: EegData) -> None:
    inputs = baseline_inputs(three, "cross_subject")
    train, test = np.flatnonzero(three.subject < 3), np.flatnonzero(three.subject == 3)
    assert inputs.rule is None
    assert inputs.swap is not None
    assert inputs.swap.tolist() == [1, 0, 2]
    for name in ("csp_lda", "fbcsp", "tangent_lr"):
        log_p = classical_log_probabilities(name, inputs, train, test)
        assert log_p.shape == (len(test), 3)
        assert np.allclose(np.exp(log_p).sum(1), 1)


def test_figures_and_tables_follow_the_classes(three: EegData) -> None:
    n = len(three.label)
    log_p = np.log(np.full((n, 3), 0.2) + 0.4 * np.eye(3)[three.label])
    result = evaluate(Predictions(log_p, three.label, three.subject, np.arange(n), None), seconds=2.5)
    assert result.trial["accuracy"] == result.trial["roc_auc"] == result.trial["f1"] == 1.0
    header, *rows = moabb_table(three, {"perfect": result}).splitlines()
    assert header == "score,time,samples,subject,session,channels,n_sessions,dataset,pipeline"
    n_first = int((three.subject == 1).sum())
    assert rows[0] == f"1.000000,2.500,{n_first},01,0,32,1,recordings,perfect"
    assert len(rows) == 3
    names = replace(
        three.names, subject={1: "Meier, Anna", 2: "b", 3: "c"}, session=dict.fromkeys(three.names.run, "pre")
    )
    named = replace(three, names=names)
    assert {row["session"] for row in csv.DictReader(moabb_table(named, {"a": result}).splitlines())} == {"pre"}
    for table in (moabb_table(named, {"perfect": result}), subjects_table({"perfect": result}, named.names.subject)):
        assert [row["subject"] for row in csv.DictReader(table.splitlines())] == ["Meier, Anna", "b", "c"]


def test_the_chance_line_and_the_words_are_those_of_the_classes(three: EegData) -> None:
    n = len(three.label)
    log_p = np.log(np.full((n, 3), 0.2) + 0.4 * np.eye(3)[three.label])
    result = evaluate(Predictions(log_p, three.label, three.subject, np.arange(n), None), seconds=2.5)
    figure = plot_label_shares({1.0: dict.fromkeys(SIMCLR_NAMES, result)}, {}, "title", 3)
    chance = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_color() == "red"]
    assert chance == [pytest.approx(1 / 3)]
    folder = three.files[0].parent
    given = config(folder, "--classes", "left_hand,right_hand,feet", "--network", "windows", "--test_subjects", "02")
    text = results_text(given, three, "a", {"a": result}, None)
    assert f"# left_hand or right_hand or feet: a, 3 people of recordings, {n} test trials, split" in text
    assert "Trained on all others, tested on 02, who are trained on nowhere" in text
    one = three.subject == 1
    alone = evaluate(Predictions(log_p[one], three.label[one], three.subject[one], np.flatnonzero(one), None))
    text = results_text(replace(given, subjects="02,03"), three, "a", {"a": alone}, None)
    assert "feet: a, 1 person of recordings" in text
    assert "Trained on subjects 02,03, tested" in text


def test_lateral_features_need_a_left_and_a_right(three: EegData) -> None:
    with pytest.raises(
        InputError, match=r"classes left_hand, right_hand, feet are not a left and a right one; .*windows"
    ):
        lateral_mirror(three, "give network=windows")
    kept = [k for k, name in enumerate(three.ch_names) if name != "C4"]
    two = replace(
        three,
        classes=("left", "right"),
        ch_names=tuple(three.ch_names[k] for k in kept),
        positions=three.positions[kept],
        trials=three.trials[:, kept],
    )
    with pytest.raises(InputError, match="no partner on the other side of the head for C3; leave them out with drop"):
        lateral_mirror(two, "give network=windows")
    midline = [two.ch_names.index(name) for name in ("Fz", "Cz", "Pz")]
    middle = replace(two, ch_names=("Fz", "Cz", "Pz"), positions=two.positions[midline], trials=two.trials[:, midline])
    with pytest.raises(InputError, match="no left and right among Fz Cz Pz; give network=windows"):
        lateral_mirror(middle, "give network=windows")
    inputs = baseline_inputs(two, "cross_subject")
    assert inputs.mirror is None
    assert inputs.rule is None
    assert list(electrode_sets(two)) == [ALL]
    whole = replace(three, classes=("left", "right"))
    mirror = lateral_mirror(whole, "give network=windows")
    assert whole.ch_names[int(mirror[whole.ch_names.index("T7")])] == "T8"
    assert {"all", "motor_11", "central_posterior"} == set(electrode_sets(whole))


def config(folder: Path, *argv: str) -> EegTransformerConfig:
    words = ["--dataset", "recordings", "--data_dir", str(folder), "--cache_dir", str(folder / "cache"), *argv]
    return parse_config(EegTransformerConfig, presets_for(PRESETS, words), words, "eeg_transformer")


def test_a_command_takes_everybody_and_tests_whom_it_is_told(three: EegData) -> None:
    folder = three.files[0].parent
    given = config(folder, "--classes", "left_hand,right_hand,feet", "--network", "windows", "--test_subjects", "02")
    assert (given.subjects, given.runs) == ("all", "all")
    data, windows, (fold,) = load_data(given, quiet=True)
    assert len(data.classes) == 3
    assert set(windows.subject[fold.test]) == {2}
    assert set(windows.subject[fold.train]) | set(windows.subject[fold.validation]) == {1, 3}
    with pytest.raises(InputError, match=r"test_subjects=02: subjects=01,02 has 02 too"):
        load_data(replace(given, subjects="01,02"), quiet=True)


def test_under_mlflow_run_a_relative_table_says_where_it_was_looked_for(
    three: EegData, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("--classes", "left_hand,right_hand,feet", "--network", "windows", "--subject_table", "who.csv")
    config(three.files[0].parent, *argv)
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    with pytest.raises(InputError, match=r"subject_table: 'who.csv' is not in .*, the project's folder, .* absolute"):
        config(three.files[0].parent, *argv)


def test_sessions_are_held_out_whole(tmp_path: Path) -> None:
    for subject in (1, 2):
        for session in (1, 2):
            for run in (1, 2):
                name = f"sub-{subject}_ses-{session}_run-{run}.edf"
                write_recording(own_raw(10 * subject + session, run, n_trials=6), tmp_path / name)
    argv = ("--classes", HANDS, "--split", "cross_session")
    data, windows, folds = load_data(config(tmp_path, *argv), quiet=True)
    assert len(folds) == 4
    for fold in folds:
        tested = windows.trial[fold.test]
        trained = windows.trial[np.concatenate([fold.train, fold.validation])]
        assert len(np.unique(data.subject[tested])) == 1
        assert len(np.unique(data.session[tested])) == 1
        assert not set(zip(data.subject[tested], data.session[tested], strict=True)) & set(
            zip(data.subject[trained], data.session[trained], strict=True)
        )


@pytest.mark.parametrize(("n_folds", "expected"), [(None, 3), (2, 3), (5, 3), (0, 3), (1, None)])
def test_three_people_make_three_folds(three: EegData, n_folds: int | None, expected: int | None) -> None:
    """Two folds would leave one person to train on, five need five; what EEGMMI is refused stays refused."""
    argv = ["--classes", "left_hand,right_hand,feet", "--network", "windows"]
    given = config(three.files[0].parent, *argv, *(() if n_folds is None else ("--n_folds", str(n_folds))))
    if expected is None:
        with pytest.raises(InputError, match="n_folds=1: 3 subjects allow 2 to 3 folds"):
            load_data(given, quiet=True)
    else:
        assert len(load_data(given, quiet=True)[2]) == expected


def test_presets_name_no_people_and_runs_of_eegmmi() -> None:
    for name, preset in presets_of(SIMCLR_PRESETS, "recordings").items():
        assert (preset["subjects"], preset["runs"]) == ("all", "all")
        assert preset["unlabelled_runs"] == (None if name == "quick" else "all")
    assert presets_of(SIMCLR_PRESETS, "physionet") == SIMCLR_PRESETS
    for name in ("eeg_transformer", "eeg_simclr", "efficient_attention"):
        target = load_target(name)
        own = target.build("quick", {"dataset": "recordings", "classes": HANDS})
        assert (own.subjects, own.runs, own.classes) == ("all", "all", ("left_hand", "right_hand"))
        assert target.build("quick", {"dataset": "recordings", "subjects": "1,2"}).subjects == "1,2"
        assert target.build("quick", {}).subjects == (target.presets["quick"] | target.quick)["subjects"]


def test_the_command_that_trains_again_is_one_for_a_shell() -> None:
    """Names with spaces, | or $ are quoted."""
    target = load_target("eeg_transformer")
    given = {"dataset": "recordings", "classes": "left hand | x,right $hand", "data_dir": "Aufnahmen Zoë"}
    built = target.build("quick", given)
    shown = shlex.split(target.command(built))[3:]
    again = parse_config(EegTransformerConfig, presets_for(PRESETS, shown), shown, "eeg_transformer")
    assert again.classes == ("left hand | x", "right $hand")
    assert again.data_dir == built.data_dir


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset", "recording"], "dataset: 'recording'; allowed are physionet, simulated, recordings, moabb:NAME"),
        (["--classes", HANDS], "classes: for dataset=recordings, not simulated"),
    ],
)
def test_parameters_that_do_not_go_together(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EegTransformerConfig, PRESETS, argv, "eeg_transformer")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("good"), ".edf", subjects=3, runs=1, n_trials=6)


@pytest.mark.parametrize("trainer", ["eeg_transformer", "eeg_simclr", "efficient_attention"])
@pytest.mark.parametrize(
    ("wrong", "given", "words"),
    [
        ("no recording", {}, "holds no recording; read are .edf"),
        ("", {"data_dir": "nowhere"}, "data_dir='nowhere' is not a folder; give the one that holds the recordings"),
        ("", {"subject_pattern": "P{subject}"}, r"subject_pattern='P\{subject\}' fits none of the 3 recordings"),
        ("", {"subject_table": "who.csv"}, "subject_table='who.csv': it cannot be read|'who.csv' is not in"),
        ("", {"classes": "left_hand"}, "give at least two classes"),
        ("", {"classes": "left_hand,rigth_hand"}, r"'rigth_hand' is not among the events; .*left_hand \(9\), right_"),
        ("two files", {}, "are both subject 01 run 1"),
        ("two folders", {}, "subject 01 is in two folders"),
        ("montage", {}, "it lacks O1 O2; take those that all have with picks=common"),
        ("cut short", {}, "sub-01_run-1.edf: cut short"),
        ("", {"split": "within_subject"}, "subject 01 has a single run"),
    ],
)
def test_what_cannot_be_trained_on_leaves_nothing_behind(
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainer: str,
    wrong: str,
    given: dict[str, str],
    words: str,
) -> None:
    """No run in the store, not even a store, and no folder of a run."""
    folder = tmp_path / "own"
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns("*" if wrong == "no recording" else "cache"))
    change(folder, wrong)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/here/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    argv = {"preset": "quick", "dataset": "recordings", "data_dir": str(folder), "classes": HANDS, **given}
    main = importlib.import_module(f"trainers.{trainer}.run").main
    with pytest.raises(InputError, match=words) as refused:
        main([word for name, value in argv.items() for word in (f"--{name}", value)])
    assert "\n" not in str(refused.value)
    assert {file.name for file in (tmp_path / "here").iterdir()} <= {"cache"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".fif", ".bdf", ".vhdr", ".edf"])
def test_from_inspect_to_a_served_answer(folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_own(folder / "own", suffix, n_trials=8)
    words = ["-m", "data.eeg", "inspect", "--dataset", "recordings", "--data_dir", str(own), "--classes", HANDS]
    shown = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert shown.returncode == 0, shown.stderr
    assert "42 trials of 3 subjects (" in shown.stdout
    out = run_trainer(folder, "eeg_transformer", dataset="recordings", data_dir=own, classes=HANDS, **FEW)
    assert "# left_hand or right_hand: transformer, 3 people of recordings, 42 test trials" in out
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    artifacts = client(folder).list_artifacts(run.info.run_id)
    assert {"moabb.csv", "subjects.csv", "summary.md"} <= {artifact.path for artifact in artifacts}
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    try:
        served = mlflow.pyfunc.load_model("models:/eeg-transformer/1")
    finally:
        mlflow.set_tracking_uri(None)
    asked = served.metadata.metadata["epochs"]
    assert (asked["classes"], len(asked["ch_names"]), asked["sfreq"]) == (["left_hand", "right_hand"], 32, 160.0)
    epochs = load(own, ("left_hand", "right_hand")).trials[:3].astype(np.float32)
    epochs = torch.from_numpy(np.array(epochs))[..., : round(4.5 * 160) + 1].numpy()
    assert np.allclose(served.predict(epochs).sum(1), 1, atol=1e-5)


@pytest.mark.slow
def test_three_classes_are_trained_registered_and_answered(folder: Path) -> None:
    own = write_own(folder / "own", ".edf", runs=1, n_trials=12, classes=("feet", "left_hand", "right_hand"))
    out = run_trainer(
        folder,
        "eeg_transformer",
        dataset="recordings",
        data_dir=own,
        classes="left_hand,right_hand,feet",
        network="windows",
        d_model=8,
        n_heads=2,
        d_ff=8,
        **FEW,
    )
    assert "a die of 3 reaches in" in out
    (run,) = runs(folder)
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    try:
        served = mlflow.pyfunc.load_model("models:/eeg-transformer/1")
    finally:
        mlflow.set_tracking_uri(None)
    n_times = round(4.5 * 160) + 1
    answer = served.predict(np.random.default_rng(0).normal(0, 2e-5, (2, 32, n_times)).astype(np.float32))
    assert answer.shape == (2, 3)
    assert {"transformer_trial_f1_macro", "csp_lda_trial_accuracy"} <= set(run.data.metrics)
