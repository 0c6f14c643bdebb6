"""Single alterations of proofs, each with what a rejection has to name."""

import copy

import numpy as np

from tests import proof_cases


class Altered:
    """A proof with one thing changed, and what a rejection has to name."""

    def __init__(self, made, rng):
        self.header, self.arrays = copy.deepcopy(made[0]), {k: v.copy() for k, v in made[1].items()}
        self.rng = rng
        self.text = self.header["examples"][0]
        self.trees = [k for k, tree in enumerate(self.text["trees"]) if tree["kind"] == "phases"]

    def member(self, *ends):
        """The name of an array with one of these endings, that is not empty."""
        names = [
            name
            for name in self.arrays
            if name.rsplit("/")[-1] in ends and self.arrays[name].size and name.count("/") > 1
        ]
        return str(self.rng.choice(names)) if names else None

    def entry(self, name):
        """A random place of an array."""
        return tuple(int(self.rng.integers(n)) for n in self.arrays[name].shape)

    def slope(self):
        """A slope outside [0, 1]."""
        name = self.member("alpha")
        if name is None or self.arrays[name].dtype == np.uint8:
            return None
        at = self.entry(name)
        self.arrays[name][at] = self.rng.choice([-0.01, 1.01, np.nan, np.inf, -1e-30])
        return "alpha", f" {at[0]}"

    def multiplier(self):
        """A multiplier that is negative or no number."""
        name = self.member("beta", "weight")
        if name is None:
            return None
        at = self.entry(name)
        self.arrays[name][at] = self.rng.choice([-0.01, -1e-30, np.nan, np.inf])
        return name.rsplit("/")[-1], "leaf "

    def leaf_left_out(self):
        """The last leaf, with all that is its own."""
        if not self.trees:
            return None
        own = f"0/t{self.rng.choice(self.trees)}/"
        split = self.arrays[f"{own}split"]
        if len(split) == 1:
            return None
        self.arrays[f"{own}split"] = split[:-1]
        for name in ("alpha", "weight"):
            self.arrays[own + name] = self.arrays[own + name][:-1]
        if self.rng.random() < 0.5:
            self.arrays[f"{own}beta"] = self.arrays[f"{own}beta"][: -_last_depth(split)]
        return ("split", "beta"), "tree"

    def leaf_twice(self):
        """A leaf again, behind the tree or in place of what is split."""
        if not self.trees:
            return None
        own = f"0/t{self.rng.choice(self.trees)}/"
        self.arrays[f"{own}split"] = np.append(self.arrays[f"{own}split"], np.int32(-1))
        for name in ("alpha", "weight"):
            self.arrays[own + name] = np.concatenate(
                [self.arrays[own + name], self.arrays[own + name][-1:]]
            )
        return "split", "ends at node"

    def another_radius(self):
        """So large that the image of another class is in the ball, or next to it."""
        if self.text["eps"] is None:
            for name, end in (("radius", 50), ("low", -50), ("high", 50)):
                self.arrays[f"0/{name}"][:] = end
        else:
            self.text["eps"] *= 0.01 if self.text["verdict"] == "falsified" else 10
        return ("bound", "groups", "point"), ""

    def another_class(self):
        """What no image of this class proves."""
        if self.text["label"] is None:
            return None
        others = [k for k in range(proof_cases.CLASSES) if k != self.text["label"]]
        self.text["label"] = int(self.rng.choice(others))
        if self.text["verdict"] == "falsified":
            return None
        # A tree of what is the label now is of no group.
        return ("bound", "groups", "unreadable"), ""

    def another_network(self):
        """A weight, with the hash of the old network."""
        name = str(self.rng.choice([n for n in self.arrays if n.startswith("weight_")]))
        self.arrays[name][self.entry(name)] += np.float32(0.25)
        return "network_sha256", "network"

    def forged_network(self):
        """Another network with its own hash."""
        if self.text["label"] is None or self.text["verdict"] == "falsified":
            return None
        weights = [self.arrays[f"weight_{k}"] for k in range(20) if f"weight_{k}" in self.arrays]
        last = self.header["network"][-1]["weights"]
        for number in last:  # the greatest logit is the least one now
            weights[number] *= -1
        self.header["network_sha256"] = proof_cases.sha256(self.header["network"], weights)
        return ("bound", "groups"), ""

    def reordered_steps(self):
        """Rows before what they pass has bounds."""
        if len(self.text["bounds"]) < 2:
            return None
        self.text["bounds"] = self.text["bounds"][::-1]
        return "bounds", "before it has finite bounds"

    def forgotten_step(self):
        """A ReLU without bounds."""
        if not self.text["bounds"]:
            return None
        relu = int(self.rng.integers(2))
        self.text["bounds"] = [s for s in self.text["bounds"] if s[0] != relu]
        if any(step[1] == "rows" for step in self.text["bounds"]) or relu == 1:
            self.text["bounds"] = [s for s in self.text["bounds"] if s[1] != "rows"]
            self.arrays = {k: v for k, v in self.arrays.items() if not k.startswith("0/r0/")}
        return "bounds", f"ReLU {relu}"

    def no_margins(self):
        """Nothing that closes what trees do not."""
        open_ = {tree["group"] for tree in self.text["trees"] if tree["kind"] == "phases"}
        if not self.text["margins"] or len(open_) == 2:
            return None
        self.text["margins"] = []
        return "groups", "is not closed"

    def a_tree_less(self):
        """A group that is left open."""
        if not self.text["trees"]:
            return None
        number = len(self.text["trees"]) - 1
        del self.text["trees"][number]
        self.arrays = {k: v for k, v in self.arrays.items() if not k.startswith(f"0/t{number}/")}
        return "groups", "is not closed"

    def box_not_closed(self):
        """A box that does not close what it has to."""
        if "0/t0/closes" not in self.arrays:
            return None
        closes = self.arrays["0/t0/closes"]
        leaf = int(self.rng.choice(np.flatnonzero(closes[:, 0])))
        closes[leaf, int(self.rng.integers(2))] = 0
        return "closes", f"leaf at node {leaf}"

    def box_moved(self):
        """A threshold outside its box."""
        if "0/t0/at" not in self.arrays:
            return None
        at = self.arrays["0/t0/at"]
        at[int(self.rng.integers(len(at)))] = self.rng.choice([-2, 3, np.nan, np.inf])
        return "at", "box at node"

    def box_closed_early(self):
        """Where more has to be split."""
        if "0/t0/closes" not in self.arrays:
            return None
        closes, split = self.arrays["0/t0/closes"], self.arrays["0/t0/split"]
        closes[int(self.rng.choice(np.flatnonzero(split >= 0)))] = 1
        return "bound", "box at node"

    def box_left_out(self):
        """The last box of a tree."""
        if "0/t0/closes" not in self.arrays:
            return None
        for name in ("split", "closes"):
            self.arrays[f"0/t0/{name}"] = self.arrays[f"0/t0/{name}"][:-1]
        return "split", "a leaf is left out"

    def box_twice(self):
        """A box again behind the tree."""
        if "0/t0/closes" not in self.arrays:
            return None
        for name in ("split", "closes"):
            values = self.arrays[f"0/t0/{name}"]
            self.arrays[f"0/t0/{name}"] = np.concatenate([values, values[-1:]])
        return "split", "ends at node"

    def box_without_bounds(self):
        """A step less for all boxes of a tree."""
        if "0/t0/closes" not in self.arrays:
            return None
        relu = int(self.rng.integers(2))
        tree = self.text["trees"][0]
        tree["bounds"] = [step for step in tree["bounds"] if step[0] != relu]
        return "bounds", f"ReLU {relu}"

    def box_along_no_entry(self):
        """A split of an entry that the input does not have."""
        if "0/t0/closes" not in self.arrays:
            return None
        split = self.arrays["0/t0/split"]
        split[int(self.rng.choice(np.flatnonzero(split >= 0)))] = self.rng.choice([-2, 4, 10**6])
        return "unreadable", "entries below 4"

    def point_moved(self):
        """Out of the set, or back to where the class is right."""
        if "0/point" not in self.arrays:
            return None
        if self.rng.random() < 0.5:
            self.arrays["0/point"][self.entry("0/point")] = self.rng.choice([-0.1, 1.1])
            return "point", "counterexample"
        self.arrays["0/point"] = self.arrays["0/x"].copy()
        return "outputs", "counterexample"

    def verdict(self):
        """Verified without anything that shows it."""
        self.text |= {"verdict": "verified", "bounds": [], "margins": [], "trees": []}
        self.arrays = {
            k: v
            for k, v in self.arrays.items()
            if "/t" not in k and "/r0" not in k and k != "0/point"
        }
        return "groups", "is not closed"

    def units_reordered(self):
        """Units that do not increase, or one twice."""
        name = self.member("unit")
        if name is None:
            return None
        unit = self.arrays[name]
        if self.rng.random() < 0.5:
            self.arrays[name] = unit[::-1].copy()
        else:
            unit[1] = unit[0]
        return "unreadable", "increasing"

    def array_truncated(self):
        """Any array of a tree, of rows, of the set."""
        names = [n for n in self.arrays if n.startswith("0/") and self.arrays[n].ndim]
        name = str(self.rng.choice(names))
        if not len(self.arrays[name]):
            return None
        self.arrays[name] = self.arrays[name][:-1]
        return ("unreadable", "split", "beta"), ""

    def split_twice(self):
        """A unit once more on its own path."""
        if not self.trees:
            return None
        own = f"0/t{self.rng.choice(self.trees)}/"
        split = self.arrays[f"{own}split"]
        if len(split) < 5 or split[1] < 0:
            return None
        split[1] = split[0]
        return "split", "twice"


def _last_depth(split):
    """The depth of the last leaf of a tree."""
    pending, depth = [0], 0
    for value in split.tolist():
        depth = pending.pop()
        if value >= 0:
            pending += [depth + 1, depth + 1]
    return depth


#: The methods of `Altered` that alter something.
KINDS = [name for name in vars(Altered) if not name.startswith("_")]
KINDS = [name for name in KINDS if name not in ("member", "entry")]
