"""What the benchmarks of clusters count: efficiency, verdicts, what a killed round has left."""

import dataclasses

import pytest

from benchmarks import cluster, pools, soak


def test_an_efficiency_is_the_work_over_the_workers_time():
    config = cluster.Config(seconds=30.0, handing_ms=100.0, way_ms=300.0)
    one = cluster.computed(config, [2.0], 1, 1.0)
    # Jobs that outlast a portion's half second are sent one by one.
    assert (one["jobs"], one["tasks"]) == (15, 15)
    assert one["seconds"] == pytest.approx(15 * 2.4)
    assert one["efficiency"] == pytest.approx(2.0 / 2.4)
    assert one["overhead_ms_a_job"] == pytest.approx(400.0)
    # Many workers wait for the one thread that hands out.
    many = cluster.computed(config, [2.0], 60, 1.0)
    assert many["seconds"] >= 0.1 * many["tasks"]
    assert many["efficiency"] < 0.5


def test_the_figure_shows_points_that_slept_beside_what_was_computed(tmp_path):
    counted = [cluster.computed(cluster.Config(), [1.0, 2.0], n, 1.0) for n in (1, 4)]
    slept = [
        {**one, "program_ms_a_task": 1.0, "scheduler_ms_a_task": 2.0, "workers_ms_a_task": 3.0}
        for one in counted
    ]
    for points in ([], slept):
        path = tmp_path / f"{len(points)}.png"
        cluster.draw(points, counted, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_lines_and_verdicts_are_counted_while_a_ledger_grows(tmp_path):
    assert (soak.lines(tmp_path), pools.verdicts(tmp_path)) == (0, 0)
    ledger = tmp_path / "ledger.csv"
    ledger.write_text("index,label,predicted,status,stage\n")
    assert (soak.lines(tmp_path), pools.verdicts(tmp_path)) == (0, 0)
    ledger.write_text(ledger.read_text() + "0,1,1,unknown,clean,\n0,1,1,verified,milp,\n1,7")
    assert (soak.lines(tmp_path), pools.verdicts(tmp_path)) == (2, 1)


def _round(victim, killed=True, lost=0, double=0, mib=60.0):
    held = {"mib": mib, "files": 9}
    return {
        "victim": victim,
        "killed": killed,
        "same": not lost + double,
        "lost": lost,
        "double": double,
        **dict.fromkeys(("scheduler", "nanny", "program", "workers"), held),
    }


def test_rounds_are_summed_and_halves_compared(tmp_path):
    training = {"victim": "training", "killed": True, "same": True, "program": {"mib": 5.0}}
    training["program"]["files"] = 3
    found = [_round("worker"), _round("program", lost=2), training, _round("scheduler", mib=70.0)]
    found += [_round("worker", killed=False, double=1)]
    summed = soak.summary(found)
    assert summed["killed"] == {"worker": 1, "scheduler": 1, "program": 1, "training": 1}
    assert (summed["rounds"], summed["of_training"], summed["same"]) == (5, 1, 3)
    assert (summed["lost"], summed["double"]) == (2, 1)
    assert summed["scheduler_mib"] == [60.0, 70.0]
    soak.draw(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_soak_kills_all_kinds_and_its_settings_are_checked():
    assert set(soak.VICTIMS) == {"worker", "scheduler", "program"}
    assert min(soak.VICTIMS.values()) > 0
    with pytest.raises(ValueError, match="minutes"):
        dataclasses.replace(soak.Config(), minutes=0.0)
