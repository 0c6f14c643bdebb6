"""Some instances of each public benchmark, those that take least, against agreed verdicts.

`make vnncomp` runs all of them. Of each benchmark one network: what is compiled for it takes longer
than its instances, and what proves them longer than the attack. Proofs of dense layers are those of
ACAS Xu (by splitting inputs), cart pole and MNIST, of convolutions those of oval21.
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
    "test": (0, 3),
    "acasxu": (7, 52, 97, 142),
    "rl_benchmarks": (0, 12, 24, 38, 52, 64, 29, 76, 88),
    "collins_rul_cnn": (0, 1, 3, 7, 15, 16, 19),
    "mnist_fc": (3, 4, 5, 9, 10, 11, 13, 14, 16, 19, 20, 21),
    "oval21": (4,),
}


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
