"""A proof's weights are compared with those of the network's own file, read by NumPy alone."""

import struct

import numpy as np
import onnx
import pytest

import robustra_tf as rt
from eval import check
from eval.checker import claim, stored
from eval.checker.rejection import RejectedError
from robustra_tf.evidence import network
from robustra_tf.evidence.files import packed
from robustra_tf.evidence.network import Described
from robustra_tf.graph import build
from tests import evaluations, nets

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, eager):
    """A folder with one network in every form, and a file of proofs without any example."""
    folder = tmp_path_factory.mktemp("kept")
    model = nets.two_conv()
    model.save(folder / "net.keras")
    model.save_weights(folder / "net.weights.h5")
    rt.onnx.save(model, folder / "net.onnx")
    evaluations.save(model, folder / "saved")
    (folder / "proof.npz").write_bytes(packed(Described.of(build(model)), []))
    return folder


FORMS = ("net.keras", "net.weights.h5", "net.onnx", "saved")


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_every_form(kept, form, capsys):
    proof = str(kept / "proof.npz")
    assert check.main([proof, f"--weights={kept / form}"]) == 0
    assert f"weights: all 8 are among the 8 arrays of {kept / form}, bit by bit" in (
        capsys.readouterr().out
    )


def test_every_weight_counts_by_its_last_bit_and_once(kept):
    model = nets.two_conv()
    graph = build(model)
    weights = [variable.numpy() for variable in graph.variables]
    nodes = stored_nodes(graph, weights)
    for number in range(len(weights)):
        altered = [w.copy() for w in weights]
        place = (0,) * altered[number].ndim
        altered[number][place] = np.nextafter(altered[number][place], np.float32(9))
        for form in FORMS:
            with pytest.raises(RejectedError, match=rf"weight_{number} of shape"):
                stored.bind(nodes, altered, kept / form)
    with pytest.raises(RejectedError, match="weight_8"):
        stored.bind(nodes, [*weights, weights[0]], kept / "net.keras")


def stored_nodes(graph, weights):
    return check.proof.Network(network.describe(graph), weights).nodes


@pytest.mark.parametrize("form", ["net.weights.h5", "net.onnx", "saved"])
def test_damaged_files_are_refused_and_never_crash(kept, form, tmp_path):
    rng = np.random.default_rng(0)
    path = kept / form
    source = path / "variables" / "variables.index" if form == "saved" else path
    content = source.read_bytes()
    if form == "saved":
        (tmp_path / "saved" / "variables").mkdir(parents=True)
        data = "variables.data-00000-of-00001"
        copy = tmp_path / "saved" / "variables"
        (copy / data).write_bytes((path / "variables" / data).read_bytes())
        target, asked = copy / "variables.index", tmp_path / "saved"
    else:
        target = asked = tmp_path / path.name
    outcomes = set()
    for trial in range(150):
        damaged = bytearray(content)
        if trial % 3 == 0:
            del damaged[int(rng.integers(len(content))) :]
        else:
            for _ in range(4):
                damaged[int(rng.integers(min(len(content), 4096)))] = int(rng.integers(256))
        target.write_bytes(bytes(damaged))
        try:
            stored.arrays(asked)
            outcomes.add("read")
        except claim.UnreadableError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_other_files_are_refused(kept, tmp_path):
    for name, message in (
        ("x.txt", "expected .keras"),
        ("x.h5", "an HDF5 file"),
        ("x.keras", "damaged"),
    ):
        (tmp_path / name).write_bytes(b"0" * 100)
        with pytest.raises(claim.UnreadableError, match=message):
            stored.arrays(tmp_path / name)
    with pytest.raises(claim.UnreadableError, match="cannot be read"):
        stored.arrays(tmp_path)


@pytest.mark.parametrize("signature", [b"TREE", b"SNOD"])
def test_a_group_within_itself_is_refused(kept, tmp_path, signature):
    """A tree's first child becomes the tree, or the group's first object the root."""
    content = bytearray((kept / "net.weights.h5").read_bytes())
    at = content.index(signature)
    (root,) = struct.unpack_from("<Q", content, 56 + 8)
    place, child = (at + 24 + 8, at) if signature == b"TREE" else (at + 8 + 8, root)
    struct.pack_into("<Q", content, place, child)
    (tmp_path / "round.h5").write_bytes(content)
    with pytest.raises(claim.UnreadableError, match=r"a smaller tree|fewer objects"):
        stored.arrays(tmp_path / "round.h5")


def test_an_array_of_negative_size_is_refused(tmp_path):
    tensor = onnx.TensorProto(dims=[-1], data_type=onnx.TensorProto.FLOAT, name="w")
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    (tmp_path / "less.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(claim.UnreadableError, match="file: expected an array, got"):
        stored.arrays(tmp_path / "less.onnx")
