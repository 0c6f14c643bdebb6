"""What a run of training leaves."""

import json

from train.workdir import Workdir


def scalars(folder: Workdir) -> list[tuple[str, str, int, float]]:
    """(network, tag, step, value) as they stand in TensorBoard's files, of speeds without value."""
    import tensorflow as tf

    found = []
    for name in "fg":
        for path in sorted(folder.events(name).glob("events*")):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    number = float(tf.make_ndarray(value.tensor))
                    speed = value.tag.startswith("speed/")
                    found.append((name, value.tag, event.step, 0.0 if speed else number))
    return found


def variables(folder: Workdir) -> dict[str, bytes]:
    """The bits of every variable in the newest checkpoint."""
    from robustra_tf.training import checkpoint

    reader = checkpoint.variables(checkpoint.found(folder.checkpoints)[0])
    keys = [key for key in reader.get_variable_to_shape_map() if not key.startswith("_")]
    return {key: reader.get_tensor(key).tobytes() for key in keys}


def about(folder: Workdir) -> dict:
    """What the newest checkpoint says, but for times and the sizes of files."""
    from robustra_tf.training import checkpoint

    path = checkpoint.found(folder.checkpoints)[0]
    found = json.loads((path / "about.json").read_text())
    del found["position"]["seconds"], found["notes"]["events"]
    return found | {"name": path.name}


def outcome(folder: Workdir) -> dict:
    """All that must not depend on how often a run was interrupted."""
    return {
        "variables": variables(folder),
        "history": folder.history.read_text(),
        "about": about(folder),
        "scalars": scalars(folder),
    }
