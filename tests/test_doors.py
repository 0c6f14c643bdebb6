"""Programs on networks and examples of one's own: what they answer, and what they refuse."""

import csv
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from eval import attack, certify, config, run
from robustra_tf.cli.settings import FlagError
from tests.evaluations import digits_network
from train import architectures, material, workdir
from train import config as training
from train import run as training_run

EPS, COUNT = 0.04, 12
TRAIN = {"method": "natural", "epochs": 1, "eps": 0.1, "eps_warmup_epochs": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of Keras's, and digits as an archive of 0..16 and as pictures."""
    folder = tmp_path_factory.mktemp("doors")
    digits_network().save(folder / "net.keras")
    images, labels = rt.data.load("digits", "test", COUNT)
    np.savez(folder / "mine.npz", x=(16 * images).astype(np.uint8), y=labels)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / "pictures" / str(label)).mkdir(parents=True, exist_ok=True)
        path = folder / "pictures" / str(label) / f"{number:02}.png"
        path.write_bytes(tf.io.encode_png((255 * image).astype(np.uint8)).numpy())
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return rt.export.load(folder / "net.keras")


def digits(first=0, limit=None):
    images, labels = rt.data.load("digits", "test", COUNT)
    return images[first:][:limit], labels[first:][:limit]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_keras_model_certifies_an_archive(folder, network, tmp_path, capsys):
    flags = [f"--model_file={folder / 'net.keras'}", "--scale=16", f"--eps={EPS}"]
    out = ["--first=3", "--limit=4", f"--out={tmp_path / 'margins.csv'}", "--method=interval"]
    assert certify.main([str(folder / "mine.npz"), *flags, *out]) == 0
    expected = rt.certify(network, *digits(3, 4), EPS, method="interval")
    assert capsys.readouterr().out.strip() == expected.summary()
    found = rows(tmp_path / "margins.csv")
    assert [int(row["index"]) for row in found] == [3, 4, 5, 6]
    assert [float(row["worst_margin"]) for row in found] == expected.worst_margin.tolist()


def test_a_keras_model_is_attacked_on_a_data_set_and_what_is_found_is_kept(
    folder, network, tmp_path, capsys
):
    flags = [f"--model_file={folder / 'net.keras'}", "--dataset=digits", "--eps=0.02"]
    kept = [f"--save={tmp_path / 'found.npz'}", f"--out={tmp_path / 'found.csv'}"]
    assert attack.main([*flags, f"--limit={COUNT}", "--steps=5", "--restarts=1", *kept]) == 0
    expected = rt.attack(network, *digits(), 0.02, steps=5, restarts=1)
    assert capsys.readouterr().out.strip() == expected.summary()
    assert 0 < expected.success.sum() < COUNT
    assert [int(row["success"]) for row in rows(tmp_path / "found.csv")] == [*expected.success]
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["x"], expected.adversarial)
        np.testing.assert_array_equal(found["y"], digits()[1])
    again = rt.data.read(tmp_path / "found.npz")
    assert ((network(again.images).numpy().argmax(1) != again.labels) == expected.success).all()


def test_an_evaluation_of_pictures_says_what_it_was_of(folder, network, tmp_path, without_pages):
    given = {"model_file": str(folder / "net.keras"), "data": str(folder / "pictures")}
    given |= {"eps": EPS, "stages": ["clean", "ibp"], "out": str(tmp_path / "out")}
    figures = run.evaluate(run.prepare(config.resolve(given)))
    assert (figures["dataset"], figures["split"], figures["n"]) == ("pictures", "given", COUNT)
    images, labels = rt.data.read(folder / "pictures")
    certificate = rt.certify(network, images, labels, EPS, method="interval")
    assert figures["ibp_error"] == pytest.approx(1 - certificate.certified.mean())
    identity = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert "data" not in identity


# What is refused: each in one line that names the flag, before anything is computed


WRONG_NETWORKS = {
    "missing": ("nowhere.keras", "there is no such file"),
    "another suffix": ("net.onnx", "expected a SavedModel directory, got a file"),
    "an export of Keras": ("exported", "save the model as .keras"),
    "cut": ("cut.keras", "damaged, no zip archive"),
    "a Lambda": ("code.keras", "'Lambda' is not supported (it carries code"),
    "weights alone": ("w.weights.h5", "weights alone"),
    "one logit": ("one.keras", "one"),
}


@pytest.fixture(scope="module")
def wrong(folder):
    """Files that are no networks, beside the one that is."""
    whole = (folder / "net.keras").read_bytes()
    (folder / "net.onnx").write_bytes(b"onnx")
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "exported").mkdir()
    (folder / "exported" / "saved_model.pb").touch()
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    code = keras.layers.Lambda(lambda x: x, output_shape=(64,))(flat)
    keras.Model(inputs, keras.layers.Dense(10)(code)).save(folder / "code.keras")
    keras.Model(inputs, keras.layers.Dense(1)(flat)).save(folder / "one.keras")
    keras.Model(inputs, keras.layers.Dense(9)(flat)).save(folder / "nine.keras")
    digits_network().save_weights(folder / "w.weights.h5")
    return folder


@pytest.mark.parametrize(("name", "message"), WRONG_NETWORKS.values(), ids=WRONG_NETWORKS)
def test_what_is_no_network_is_refused_in_one_line(wrong, name, message, capsys):
    flags = [f"--model_file={wrong / name}", "--scale=16", f"--eps={EPS}"]
    assert certify.main([str(wrong / "mine.npz"), *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("eval.certify: --model_file: ")
    assert message in line


def code(main, flags):
    """The exit code of a program, wherever it ends."""
    try:
        return main(flags)
    except SystemExit as leave:
        return leave.code


WRONG_EXAMPLES = {
    "missing": (["nowhere.npz"], "--data: ", "there is no such file or folder"),
    "another suffix": (["net.onnx"], "--data: ", "expected an .npz file or a folder"),
    "not scaled": (["mine.npz"], "--data: ", "expected floats in [0, 1], got uint8 from 0 to 16"),
    "scaled otherwise": (["mine.npz", "--scale=8"], "--data: ", "values from 0 to 8 (--scale)"),
    "no data": ([], "--dataset: ", "expected --data, or --dataset"),
    "both": (["mine.npz", "--dataset=digits"], "--dataset: ", "one of --dataset and --data"),
    "an unknown name": (["--dataset=svhn"], "--dataset: ", "there are digits"),
    "another split": (["mine.npz", "--split=test"], "--split: ", "expected one of given"),
    "too many": (["mine.npz", "--limit=13"], "--limit: ", "at least 1 and at most 12"),
    "other images": (["--dataset=mnist"], "--dataset: ", "mnist: no prepared dataset"),
}


@pytest.mark.parametrize("flags", WRONG_EXAMPLES.values(), ids=WRONG_EXAMPLES)
def test_what_are_no_examples_is_refused_in_one_line(wrong, flags, capsys, monkeypatch):
    monkeypatch.chdir(wrong)
    monkeypatch.setenv("TFDS_DATA_DIR", str(wrong))
    given, start, message = flags
    assert code(attack.main, [*given, "--model_file=net.keras", f"--eps={EPS}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"eval.attack: {start}")
    assert message in line


# Training


def resolved(folder, **given):
    return training.resolve({"model_file": str(folder / "net.keras"), **TRAIN, **given})


@pytest.mark.parametrize(("start", "kept"), [("f", "f"), ("both", "fg"), ("none", "")])
def test_networks_start_from_the_file_or_from_weights_of_their_own(folder, start, kept, network):
    given = resolved(folder, start=start)
    made = {name: architectures.make(given, name, seed) for name, seed in (("f", 1), ("g", 2))}
    for name, model in made.items():
        same = [
            np.array_equal(one, other)
            for one, other in zip(model.get_weights(), network.get_weights(), strict=True)
        ]
        assert all(same) == (name in kept)
        text = "the weights in net.keras" if name in kept else "weights drawn anew"
        assert f"{name} starts from {text}" in architectures.origins(given)
    again = architectures.make(given, "g", 2).get_weights()
    for one, other in zip(made["g"].get_weights(), again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_trained_stays_in_a_network_drawn_anew(rng):
    scaled = keras.layers.Normalization()
    scaled.adapt(rng.normal(3.0, 2.0, (50, 4)))
    frozen = keras.layers.Dense(4, activation="relu", trainable=False)
    parts = [keras.Input((4,)), scaled, frozen, keras.layers.Dense(2)]
    model = keras.Sequential(parts)
    fresh = architectures.drawn_anew(model, 3)
    inner = keras.Sequential(model.layers[:2])
    expected = inner(np.ones((1, 4), np.float32)).numpy()
    found = keras.Sequential(fresh.layers[:2])(np.ones((1, 4), np.float32)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert (fresh.layers[-1].kernel.numpy() != model.layers[-1].kernel.numpy()).any()


def test_a_run_is_made_of_a_file_and_an_archive(folder, tmp_path, monkeypatch, capsys):
    """f goes on from the file's weights; what is saved takes what the file takes."""
    save = functools.partial(rt.export.save, certifies=False)
    monkeypatch.setattr(training_run.export, "save", save)
    given = {"model_file": str(folder / "net.keras"), "data": str(folder / "mine.npz")}
    given |= {"scale": 16.0, "workdir": str(tmp_path / "run"), "lr": 1e-4, **TRAIN}
    settings, place = workdir.open_run(given, False)
    training_run.check(settings)
    training_run.run(settings, place)
    printed = capsys.readouterr().out
    for text in ("net.keras", f"{COUNT} examples of mine.npz", "g starts from weights drawn anew"):
        assert text in printed
    begun, ended = rt.export.load(folder / "net.keras"), rt.export.load(tmp_path / "run" / "f")
    pairs = zip(begun.get_weights(), ended.get_weights(), strict=True)
    moved = [np.abs(one - other).max() for one, other in pairs]
    assert 0 < max(moved) < 1e-3
    assert ended.input_shape == begun.input_shape


WRONG_RUNS = {
    "two architectures": ({"model": "digits_small"}, "--model: expected one of --model and"),
    "an initialiser": ({"init": "interval"}, "--init: expected none with --model_file"),
    "normalisation": ({"batch_norm": True}, "--batch_norm: expected none with --model_file"),
    "no such start": ({"start": "g"}, "--start: expected one of f, both, none, got 'g'"),
    "two data sets": ({"dataset": "digits", "data": "x"}, "--dataset: expected one of"),
    "no radius": ({"eps": None}, "--eps: expected a radius in pixels of [0, 1] (digits, mnist"),
    "no data": ({"data": "x.npz"}, "--data: x.npz: there is no such file or folder"),
    "a scale alone": ({"data": None, "scale": 16.0}, "--scale: expected none but with --data"),
    "tests that are not there": ({"limit_test": 5}, "--limit_test: expected at least 0 and at m"),
    "too many": ({"limit_train": 13}, "--limit_train: expected at least 1 and at most 12"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_a_run_that_cannot_be_is_refused_in_one_line(folder, change, message):
    given = {"data": str(folder / "mine.npz"), "scale": 16.0, **change}
    with pytest.raises(FlagError) as raised:
        resolved(folder, **given)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_start_needs_a_file(folder):
    with pytest.raises(FlagError, match="--start: expected none but with --model_file"):
        training.resolve({"start": "both"})


def test_a_file_for_other_images_or_fewer_classes_is_refused(wrong, tmp_path):
    given = resolved(wrong, model_file=str(wrong / "nine.keras"))
    with pytest.raises(FlagError, match=r"--model_file: .*it has 9 logits, but digits 10 classes"):
        architectures.read(given)
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 5, 5, 1)), y=[0, 1, 2])
    given = resolved(wrong, data=str(tmp_path / "other.npz"))
    with pytest.raises(FlagError, match=r"--model_file: .*takes \(8, 8, 1\).* are \(5, 5, 1\)"):
        architectures.read(given)


def test_architectures_by_name_fit_the_images_or_a_file_is_asked_for(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 5, 5, 1)), y=[0, 1, 2])
    assert training.resolve({"data": str(tmp_path / "other.npz"), **TRAIN}).model == "cnn3"
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 3, 3, 1)), y=[0, 1, 2])
    with pytest.raises(FlagError, match=r"--model: .*for images of \(3, 3, 1\): --model_file"):
        training.resolve({"data": str(tmp_path / "other.npz"), **TRAIN})
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 8, 8)), y=[0, 1, 2])
    with pytest.raises(FlagError, match=r"--model: .*for images of \(8, 8\): x\[\.\.\., None\]"):
        training.resolve({"data": str(tmp_path / "other.npz"), **TRAIN})
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 8, 8, 1)), y=[0, 1, 10])
    with pytest.raises(FlagError, match="--model: expected a --model_file of 11 classes"):
        training.resolve({"data": str(tmp_path / "other.npz"), **TRAIN})
    np.savez(tmp_path / "other.npz", x_test=np.zeros((3, 8, 8, 1)), y_test=[0, 1, 1])
    with pytest.raises(FlagError, match="examples to train on, got 'test'"):
        training.resolve({"data": str(tmp_path / "other.npz"), **TRAIN})
    assert material.parts(rt.data.INFO["digits"]) == ("train", "test")
