"""A dozen instances of each public benchmark, those that take least, against agreed verdicts.

`make vnncomp` runs all of them. Of each benchmark as few networks as may be: a network that is read
and compiled takes longer than its instances.
"""

import pytest

from robustra_tf.vnncomp import instances, tables
from robustra_tf.vnncomp.networks import Network
from robustra_tf.vnncomp.tables import Key

pytestmark = pytest.mark.oracle
#: Seconds for each: many times what they take here.
SECONDS = 60
#: Positions in the lists, network by network.
CHOSEN = {
    "test": range(5),
    "acasxu": (96, 141, 97, 142, 98, 143, 57, 58, 66, 67, 71, 74),
    "rl_benchmarks": (0, 12, 24, 38, 52, 64, 29, 76, 88, 275, 237, 285),
    "collins_rul_cnn": (0, 1, 3, 5, 6, 7, 10, 14, 15, 16, 17, 19),
    "mnist_fc": (3, 4, 5, 9, 10, 11, 13, 14, 16, 19, 20, 21),
    "oval21": (2, 4, 7),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("name", CHOSEN)
def test_agreed_verdicts_are_reached(name, shared):
    folder = shared / "vnncomp" / name
    agreed = tables.read(folder.parent / "verdicts.csv").results
    listed = instances.read(folder / "instances.csv")
    found, read = {}, (None, None)
    for index in CHOSEN[name]:
        each = listed[index]
        if read[0] != each.network:
            read = each.network, Network(instances.located(folder, each.network))
        answer = read[1].answer(instances.located(folder, each.query), SECONDS)
        assert answer.word in tables.DECIDED, (index, answer)
        found[Key.of(each.network, each.query)] = tables.Result(answer.word, answer.seconds)
    compared = tables.compare(found, agreed)
    assert compared.contradictions == []
    # Of the benchmark `test` nothing is agreed.
    assert compared.agreed == ([] if name == "test" else [*found])
