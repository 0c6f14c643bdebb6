"""A pool of Dask's workers: sizes of tasks, faults and whom they are blamed on, settings."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest

from eval import cluster, cluster_run, cluster_tasks, clustered, pools
from eval.cluster import Cluster
from eval.workers import LostError, Orders, OverrunError, Processes, RefusedError, StageError
from robustra_tf.cli.settings import SettingError
from tests import evaluations

ROOT = Path(__file__).resolve().parents[1]
WORKER = "tcp://127.0.0.1:1"


class Future:
    """What a task of the fake client's has come to."""

    def __init__(self, key, status, value=None):
        self.key, self.status, self.value = key, status, value

    def exception(self):
        return self.value

    def add_done_callback(self, tell):
        if self.status != "pending":
            tell(self)

    def release(self):
        self.status = "released"


def asked(task):
    """The arguments of a task's jobs."""
    return pickle.loads(task.asked)[1]


class Client:
    """A scheduler whose workers do tasks at once; `fate` may say what becomes of one instead."""

    def __init__(self, fate=lambda task: None, workers=2):
        self.fate, self.there = fate, {f"tcp://127.0.0.1:{i}": 1 for i in range(1, workers + 1)}
        self.status, self.scheduler = "running", SimpleNamespace(address="tcp://127.0.0.1:9")
        self.sizes, self.cancelled, self.ended, self.retired = [], [], [], []
        self.pending, self.most, self.hears, self.asked = {}, 0, None, []

    def nthreads(self):
        return self.there

    def submit(self, function, *given, key, pure, workers=(), allow_other_workers=True):
        assert not pure
        if function is cluster_tasks.hand:
            return Future(key, "finished", function(*given))
        handed, task = given
        self.asked += workers
        self.sizes.append(len(asked(task)))
        made = self.fate(task) or Future(key, "finished", function(handed.value, task))
        made.key = key
        if made.status == "pending":
            self.pending[key] = made
        return made

    def gather(self, futures):
        self.most = max(self.most, len(futures))
        return [future.value for future in futures]

    def cancel(self, futures, force):
        self.cancelled += [future.key for future in futures]

    def processing(self, workers):
        return {worker: list(self.pending) for worker in workers}

    def restart_workers(self, workers, timeout, raise_for_error):
        self.ended += workers

    def retire_workers(self, workers):
        self.retired += workers
        for worker in workers:
            del self.there[worker]

    def subscribe_topic(self, topic, handler):
        self.hears = handler

    def unsubscribe_topic(self, topic):
        self.hears = None


@pytest.fixture
def worker(monkeypatch):
    """The worker that tasks are done by in this process; it tells nobody of what it begins."""
    here = SimpleNamespace(
        address=WORKER, state=SimpleNamespace(nthreads=1), log_event=lambda topic, event: None
    )
    monkeypatch.setattr(distributed, "get_worker", lambda: here)
    return here


def work(kind, value):
    """A job of the tests."""
    if kind == "sleep":
        time.sleep(value)
    if kind == "once" and not Path(value).exists():
        Path(value).touch()
        time.sleep(600)
    if kind == "die":
        os._exit(3)
    if kind == "raise":
        raise ValueError(value)
    if kind == "memory":
        raise MemoryError(value)
    if kind == "other":
        raise RefusedError(value)
    return value


def outcomes(client, jobs, orders=None, told=print):
    """By job, what came of it; the pool asks for no job more than there is room for."""
    found = {}
    for job, result in Cluster(client, told).share_out(
        jobs, orders or Orders(), work, lambda job: job
    ):
        assert job not in found
        try:
            found[job] = result("it")
        except StageError as error:
            found[job] = type(error), str(error)
    return found


def killed(task):
    return Future(
        "", "error", distributed.KilledWorker(str(task.number), SimpleNamespace(address=""), 2)
    )


@pytest.mark.usefixtures("worker")
def test_what_jobs_cost_chooses_how_many_go_together(monkeypatch):
    client = Client()
    jobs = [("give", i) for i in range(10_000)]
    assert outcomes(client, jobs) == {job: job[1] for job in jobs}
    assert client.sizes[:2] == [1, 1]
    assert max(client.sizes) == cluster_run.MOST
    assert len(client.sizes) < 40
    monkeypatch.setattr(cluster_run, "SECONDS", 0.02)
    client = Client()
    outcomes(client, [("sleep", 0.005 + i * 1e-9) for i in range(40)])
    assert 2 <= max(client.sizes) <= 4


@pytest.mark.usefixtures("worker")
def test_no_more_jobs_are_taken_than_there_is_room_for():
    taken = []

    def jobs():
        for i in range(400):
            taken.append(i)
            yield "give", i

    client, done = Client(), 0
    for _ in Cluster(client, print).share_out(jobs(), Orders(), work, lambda job: job):
        done += 1
        under_way = sum(client.sizes[-2 * client.most - 2 :])
        assert len(taken) - done <= max(under_way, 2)
    assert (done, client.most) == (400, 2)
    # Each worker has one task at a time.
    pairs = zip(client.asked[::2], client.asked[1::2], strict=False)
    assert all(one != other for one, other in pairs)


@pytest.mark.usefixtures("worker")
def test_a_job_is_blamed_for_what_it_does_alone():
    """A task that several workers died of is set aside; alone, only the one at fault is lost."""
    bad = ("give", 37)
    client = Client(lambda task: killed(task) if bad in asked(task) else None)
    jobs = [("give", i) for i in range(60)]
    expected = {job: job[1] for job in jobs}
    expected[bad] = LostError, "it: its workers died, one after the other"
    assert outcomes(client, jobs) == expected


@pytest.mark.usefixtures("worker")
def test_workers_that_die_of_everything_end_the_run():
    with pytest.raises(StageError, match="workers die of every task"):
        outcomes(Client(killed), [("give", i) for i in range(9)])


@pytest.mark.usefixtures("worker")
def test_what_fails_is_told_and_want_of_memory_is_tried_again():
    jobs = [("give", 1), ("raise", "{no}"), ("memory", "x"), ("give", 2)]
    client = Client()
    assert outcomes(client, jobs) == {
        jobs[0]: 1,
        jobs[1]: (StageError, "it: ValueError: {no}"),
        jobs[2]: (LostError, "it: out of memory: MemoryError: x"),
        jobs[3]: 2,
    }
    assert sum(client.sizes) == 5


@pytest.mark.usefixtures("worker")
def test_a_worker_that_is_late_is_ended_and_its_job_tried_once_more():
    def fate(task):
        if ("sleep", 9) in asked(task):
            position = asked(task).index(("sleep", 9))
            client.hears((0.0, [task.number, position, WORKER]))
            return Future("", "pending")
        return None

    client, told = Client(fate), []
    orders = Orders(limit=lambda job: 0.05)
    jobs = [("give", i) for i in range(8)] + [("sleep", 9), ("give", 9)]
    found = outcomes(client, jobs, orders, told.append)
    expected = {job: job[1] for job in jobs}
    expected["sleep", 9] = OverrunError, "it: its worker was ended after 0.05 seconds"
    assert found == expected
    assert client.ended == [WORKER, WORKER]
    assert "at a job for more than 0.05 seconds" in told[0]
    assert client.hears is None


@pytest.mark.usefixtures("worker")
def test_a_worker_that_was_lost_meanwhile_is_not_ended():
    def fate(task):
        if not client.sizes[1:]:
            client.hears((0.0, [task.number, 0, WORKER]))
            return Future("", "pending")
        return None

    class Elsewhere(Client):
        def processing(self, workers):
            # The task waits for another worker, and is done by it.
            for number, future in enumerate(self.pending.values()):
                future.status = "finished"
                result = cluster_tasks.Result(1)
                future.value = cluster_tasks.Reply(WORKER, [result], 0.0)
                run._news.put(number)
            return {}

    client = Elsewhere(fate)
    run = cluster_run.Run(client, print, Orders(limit=lambda job: 0.01), lambda job: (work, job))
    assert [(job, result("")) for job, result in run.through(iter([("give", 1)]))]
    assert client.ended == []


def test_a_worker_of_another_kind_is_sent_away(worker, monkeypatch):
    client, told = Client(), []
    wanted = cluster_tasks.versions()
    monkeypatch.setattr(cluster_tasks, "versions", lambda: wanted)

    def found(versions, threads):
        return "code: expected a, got b" if WORKER in client.there else ""

    monkeypatch.setattr(cluster_tasks, "refusal", found)
    jobs = [("give", i) for i in range(6)]
    assert outcomes(client, jobs, told=told.append) == {job: job[1] for job in jobs}
    assert told == [f"worker {WORKER} is refused: code: expected a, got b"]
    assert client.retired == [WORKER]
    # Without anybody else there is nobody to ask.
    monkeypatch.setattr(cluster_tasks, "refusal", lambda versions, threads: "")
    client = Client(workers=1)
    with pytest.raises(StageError, match="no worker is left; the last one was refused: f: expec"):
        outcomes(client, [("other", "f: expected the sha256 a, got b")], told=told.append)


def test_what_a_worker_has_is_compared_by_name():
    wanted = cluster_tasks.versions()
    assert cluster_tasks.refusal(wanted, 1) == ""
    assert cluster_tasks.refusal(wanted | {"keras": "1.0"}, 1).startswith("keras: expected 1.0, g")
    assert "threads: expected 1" in cluster_tasks.refusal(wanted, 4)
    assert set(wanted) >= {"python", "tensorflow", "robustra_tf", "code"}


@pytest.mark.usefixtures("worker")
def test_a_scheduler_that_dies_ends_the_run_in_one_line():
    client = Client(lambda task: Future("", "cancelled") if task.number == 3 else None)
    with pytest.raises(StageError, match=r"lost the scheduler at tcp://127.0.0.1:9; --resume goes"):
        outcomes(client, [("give", i) for i in range(100)])
    client = Client(lambda task: Future("", "pending"))
    client.status = "closed"
    with pytest.raises(StageError, match="lost the scheduler"):
        outcomes(client, [("give", 1)])


def given(**changed):
    settings = {"cluster": None, "insecure": False, "workers": 1}
    return SimpleNamespace(**settings | dict.fromkeys(clustered.PATHS) | changed)


def test_places_have_three_forms(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "tcp://127.0.0.1:8786", "workers": {}}))
    for text, place in (
        ("local:4", (4, "")),
        ("tcp://localhost:8786", (0, "tcp://localhost:8786")),
        ("tcp://[::1]:8786", (0, "tcp://[::1]:8786")),
        (str(file), (0, "tcp://127.0.0.1:8786")),
    ):
        clustered.check(given(cluster=text))
        assert clustered.Place.of(given(cluster=text))[:2] == place
    assert isinstance(pools._cluster, object)
    with pools.opened(given(workers=2)) as pool:
        assert isinstance(pool, Processes)
    with pools.opened(given()) as pool:
        assert pool is None


def test_certificates_go_with_tls(tmp_path):
    files = {name: tmp_path / f"{name}.pem" for name in clustered.PATHS}
    for file in files.values():
        file.touch()
    place = clustered.Place.of(given(cluster="tls://head:8786", **files))
    assert set(place.tls) == {"tls_ca_file", "tls_client_cert", "tls_client_key"}
    clustered.check(given(cluster="tls://head:8786", **files))
    for changed, words in (
        ({"cluster": "tls://head:8786"}, "--tls_ca_file: expected an existing file"),
        ({"cluster": "tcp://127.0.0.1:1"} | files, "--tls_ca_file: expected none but with tls://"),
        ({"cluster": "local:2"} | files, "--tls_ca_file: expected none but with tls://"),
    ):
        with pytest.raises(SettingError, match=words):
            clustered.check(given(**changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cluster": "local:0"}, "--cluster: expected at least 1 and at most 1024 workers"),
        ({"cluster": "local:x"}, "--cluster: expected local:N, tcp://HOST:PORT"),
        ({"cluster": "http://a:1"}, "--cluster: expected local:N"),
        ({"cluster": "nowhere.json"}, "--cluster: expected local:N.*nowhere.json"),
        ({"cluster": "tcp://10.0.0.7:8786"}, "--cluster: expected tls://, or a loopback"),
        ({"cluster": "tcp://node:8786"}, "--cluster: expected tls://, or a loopback"),
        ({"cluster": "local:2", "workers": 2}, "--workers: expected one of --workers and"),
        ({"insecure": True}, "--insecure: expected --cluster with it"),
        ({"tls_key": Path("k")}, "--tls_key: expected --cluster with it"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed, words):
    with pytest.raises(SettingError, match=words) as raised:
        clustered.check(given(**changed))
    assert "\n" not in str(raised.value)
    if "10.0.0.7" in str(changed):
        clustered.check(given(insecure=True, **changed))


def test_the_extra_must_be_there(monkeypatch):
    monkeypatch.setattr(clustered.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"robustra-tf\[cluster\]"):
        clustered.check(given(cluster="local:2"))


def test_a_scheduler_that_listens_elsewhere_too_is_refused(monkeypatch):
    class Open(Client):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def scheduler_info(self):
            return {"address": "tcp://10.0.0.7:8786"}

    monkeypatch.setattr(cluster, "_reached", lambda place: Open())
    place = clustered.Place(0, "tcp://127.0.0.1:8786", {})
    with (
        pytest.raises(SettingError, match=r"got 'tcp://10.0.0.7:8786'"),
        cluster.opened(place, False, print),
    ):
        pass
    with cluster.opened(place, True, print) as pool:
        assert isinstance(pool, Cluster)


def test_without_the_setting_nothing_of_dask_is_imported():
    program = (
        "import sys\nfrom types import SimpleNamespace as Given\n"
        "import eval.main, eval.verify, eval.benchmark, eval.pools\n"
        "with eval.pools.opened(Given(cluster=None, workers=2)): pass\n"
        "print(sorted({'dask', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[]\n", done.stderr
    # Whatever else is imported later: only these name it, and only `pools` names these.
    named = {
        r"(from|import) (dask|distributed)": {"cluster", "cluster_run", "cluster_tasks"},
        r"from \. import cluster$": {"pools"},
    }
    for words, expected in named.items():
        files = (ROOT / "eval").glob("*.py")
        found = {f.stem for f in files if re.search(rf"^ *{words}", f.read_text(), re.MULTILINE)}
        assert found == expected


# Three processes import TensorFlow, and some are killed: twenty seconds.
@pytest.mark.slow
@pytest.mark.usefixtures("without_pages")
def test_a_real_cluster_loses_nothing_but_what_kills_its_workers(tmp_path, monkeypatch):
    told = []
    with cluster.opened(clustered.Place(2, "", {}), False, told.append) as pool:
        mark = str(tmp_path / "mark")
        jobs = [("give", i) for i in range(30)]
        expected = {job: job[1] for job in jobs}
        jobs[7:7] = [("die", 0), ("once", mark)]
        expected["once", mark] = mark
        expected["die", 0] = LostError, "it: its workers died, one after the other"
        orders = Orders(limit=lambda job: 1.0 if job[0] == "once" else 60.0)
        found = {}
        for job, result in pool.share_out(jobs, orders, work, lambda job: job):
            try:
                found[job] = result("it")
            except StageError as error:
                found[job] = type(error), str(error)
        assert found == expected
        assert len(told) == 1
        monkeypatch.setattr(pools, "_cluster", lambda *given: pools.contextlib.nullcontext(pool))
        saved = evaluations.save(evaluations.digits_network(), tmp_path / "f")
        ledgers = []
        for place in ("local:2", None):
            options = {"stages": ["clean", "pgd", "lp", "milp"], "eps": 0.045, "limit": 24}
            options |= {"attack_steps": 3, "solver": "branch", "cluster": place}
            out = tmp_path / str(place)
            evaluations.evaluate(saved, out, **options)
            ledgers.append(evaluations.without_seconds(out))
    assert ledgers[0] == ledgers[1]
    assert {row["stage"] for row in ledgers[0]} >= {"pgd", "lp", "milp"}
