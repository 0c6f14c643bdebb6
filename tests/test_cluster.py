"""A pool of Dask's workers: sizes of tasks, faults and whom they are blamed on, settings."""

import asyncio
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest

from eval import cluster, cluster_news, cluster_run, cluster_tasks, clustered, pools, portions
from eval.cluster import Cluster
from eval.workers import LostError, Orders, OverrunError, RefusedError, StageError
from robustra_tf.cli.settings import SettingError
from tests import evaluations
from tests.test_clustered import given as given_settings

ROOT = Path(__file__).resolve().parents[1]
WORKER = "tcp://127.0.0.1:1"
#: Who shows what, in a cluster by TLS.
ROLES = [(who, what) for who in ("scheduler", "worker", "client") for what in ("cert", "key")]


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
        self.id, self.status, self.scheduler = (
            "me",
            "running",
            SimpleNamespace(address="tcp://127.0.0.1:9"),
        )
        self.sizes, self.cancelled, self.ended, self.retired = [], [], [], []
        self.pending, self.hears, self.asked = {}, None, []
        self.loop = SimpleNamespace(add_callback=lambda work: asyncio.run(work()))

    def nthreads(self):
        return self.there

    def submit(self, function, *given, key, pure, workers=(), allow_other_workers=True):
        assert not pure
        if function is cluster_tasks.hand:
            return Future(key, "finished", function(*given))
        handed, task = given
        self.key = handed.value.key
        self.asked += workers
        self.sizes.append(len(asked(task)))
        made = self.fate(task) or Future(key, "finished", function(handed.value, task))
        made.key = key
        if made.status == "pending":
            self.pending[key] = made
        return made

    async def gather(self, future, asynchronous):
        assert asynchronous
        return future.value

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
        assert topic == self.id
        self.hears = handler


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
def test_no_more_jobs_are_taken_than_there_is_room_for():
    taken = []

    def jobs():
        for i in range(400):
            taken.append(i)
            yield "give", i

    client, done, before = Client(), 0, 1
    for _ in Cluster(client, print).share_out(jobs(), Orders(), work, lambda job: job):
        done += 1
        # Those that are sent, and as many tasks again for each of two workers.
        before = max(before, *client.sizes)
        assert len(taken) <= sum(client.sizes) + 2 * 2 * 2 * before
    assert done == 400
    # Each worker has one task at a time.
    pairs = zip(client.asked[::2], client.asked[1::2], strict=False)
    assert all(one != other for one, other in pairs)


@pytest.mark.usefixtures("worker")
def test_a_worker_has_its_next_task_while_its_answer_is_on_the_way():
    """Answers that take long to be brought hold nothing up, and none is lost or taken twice."""
    client, later = Client(workers=1), []
    client.loop.add_callback = later.append
    run = cluster_run.Run(client, print, Orders(), lambda job: (work, job))
    answers, jobs = [], [("give", i) for i in range(6)]
    run._portions = portions.Portions(iter(jobs))
    for _ in range(4):
        run._fill()
        answers += run._heard()
    assert (len(client.sizes), answers) == (4, [])
    for bring in later:
        asyncio.run(bring())
    client.loop.add_callback = lambda bring: asyncio.run(bring())
    answers += run._heard()
    assert [(job, result("")) for job, result in answers] == [(job, job[1]) for job in jobs[:4]]
    # These, too, had made room for the next one before they were given.
    assert (len(client.sizes), len(run._sent)) == (5, 1)


def test_an_answer_is_told_where_it_is_short_and_asked_for_where_it_is_not(worker):
    client, asked = Client(), []

    async def gather(future, asynchronous):
        assert asynchronous
        asked.append(future.key)
        return future.value

    client.gather = gather
    worker.log_event = lambda topic, said: client.hears((0.0, tuple(said)))
    jobs = [("give", "x" * 2**i) for i in range(20)]
    assert outcomes(client, jobs) == {job: job[1] for job in jobs}
    assert 1 <= len(asked) <= 4 < len(client.sizes)
    # What is told to others under the same name, or by the scheduler, is none of it.
    run = cluster_run.Run(client, print, Orders(), lambda job: (work, job))
    for said in ({"action": "add-client"}, ("another", 0, b"answer"), ("another", 0, 0, WORKER)):
        run.hear(said)
    assert run._news.empty()


@pytest.mark.usefixtures("worker")
def test_an_answer_counts_though_its_worker_dies_before_the_task_has_ended():
    def fate(task):
        results = [cluster_tasks.Result(job[1]) for job in asked(task)]
        answer = pickle.dumps(cluster_tasks.Reply(WORKER, results, 0.1))
        for _ in range(2):  # the second time by the worker that does it anew
            client.hears((0.0, (client.key, task.number, answer)))
        return killed(task)

    client, jobs = Client(fate), [("give", i) for i in range(40)]
    assert outcomes(client, jobs) == {job: job[1] for job in jobs}


def test_a_job_that_takes_long_is_told_and_quick_ones_are_not(worker, monkeypatch):
    monkeypatch.setattr(cluster_tasks, "LOOK", 0.05)
    said = []
    worker.log_event = lambda topic, message: said.append((topic, message))
    jobs = [("give", i) for i in range(3)] + [("sleep", 0.4)] + [("give", 9)]
    content = pickle.dumps((work, jobs))
    handed = cluster_tasks.Handed("run", pickle.dumps(None), cluster_tasks.versions())
    for timed in (True, False):
        said.clear()
        answer = cluster_tasks.do(handed, cluster_tasks.Task(5, content, "me", timed))
        told = [("me", ["run", 5, 3, WORKER])] if timed else []
        assert said == [*told, ("me", ["run", 5, answer])]
        assert len(pickle.loads(answer).results) == len(jobs)


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
            client.hears((0.0, (client.key, task.number, position, WORKER)))
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


@pytest.mark.usefixtures("worker")
def test_a_worker_that_was_lost_meanwhile_is_not_ended():
    def fate(task):
        if not client.sizes[1:]:
            run.hear((run._key, task.number, 0, WORKER))
            return Future("", "pending")
        return None

    class Elsewhere(Client):
        def processing(self, workers):
            # The task waits for another worker, and is done by it.
            for number, future in enumerate(self.pending.values()):
                future.status = "finished"
                result = cluster_tasks.Result(1)
                future.value = pickle.dumps(cluster_tasks.Reply(WORKER, [result], 0.0))
                run._news.put(cluster_news.Ended(number))
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


class Local(Client):
    """Of workers that this program begins; they may fail to begin, and be slow to end."""

    def __init__(self, begin=lambda: None, end=lambda: None):
        super().__init__()
        self.begin, self.ends = begin, [end, lambda: None]

    def __call__(self, *_, **given):
        if "n_workers" in given:
            self.begin()
        return self

    def close(self):
        """Of the client, then of the cluster."""
        self.ends.pop()()


@pytest.mark.usefixtures("worker")
def test_workers_are_begun_meanwhile_and_their_end_undoes_nothing(monkeypatch):
    def slow():
        ended.append(len(local.ends))
        raise TimeoutError

    ready, ended = threading.Event(), []
    local = Local(lambda: ready.wait(60), slow)
    for name in ("LocalCluster", "Client"):
        monkeypatch.setattr(distributed, name, local)
    with cluster.opened(clustered.Place(2, "", {}), False, print) as pool:
        ready.set()  # not before it was entered
        for _ in range(2):
            found = pool.share_out([("give", 5)], Orders(), work, lambda job: job)
            assert [result("") for _, result in found] == [5]
    assert ended == [0]


def test_workers_that_do_not_begin_are_told_to_who_has_jobs_for_them(monkeypatch):
    def fail():
        raise OSError("no port is left")

    monkeypatch.setattr(distributed, "LocalCluster", Local(fail))
    with cluster.opened(clustered.Place(2, "", {}), False, print):
        pass
    with (
        pytest.raises(OSError, match="no port is left"),
        cluster.opened(clustered.Place(2, "", {}), False, print) as pool,
    ):
        list(pool.share_out([("give", 5)], Orders(), work, lambda job: job))


@pytest.mark.usefixtures("without_pages")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates")
def test_a_cluster_by_tls_takes_jobs_from_those_with_a_certificate_alone(tmp_path):
    """A scheduler and a worker in this process, behind a certificate that signs itself."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    form = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=me"
    given = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *form.split(), *given], check=True, capture_output=True)
    files = {"tls_ca_file": cert, "tls_cert": cert, "tls_key": key}
    security = distributed.Security(
        tls_ca_file=str(cert),
        require_encryption=True,
        **{f"tls_{who}_{what}": str(files[f"tls_{what}"]) for who, what in ROLES},
    )
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tls://",
        host="127.0.0.1",
        security=security,
        dashboard_address=None,
        silence_logs=50,
    ) as there:
        asked = given_settings(cluster=there.scheduler_address, **files)
        clustered.check(asked)
        assert there.scheduler_address.startswith("tls://127.0.0.1:")
        with pools.opened(asked) as pool:
            jobs = [("give", i) for i in range(5)]
            found = list(pool.share_out(jobs, Orders(), work, lambda job: job))
        assert sorted(result("") for _, result in found) == [0, 1, 2, 3, 4]
        # Another one's certificate, that nobody of these has signed.
        other = tmp_path / "other.pem"
        given[-1] = str(other)
        subprocess.run(["openssl", *form.split(), *given], check=True, capture_output=True)
        asked = given_settings(
            cluster=there.scheduler_address, tls_ca_file=cert, tls_cert=other, tls_key=key
        )
        with (
            pytest.raises(StageError, match="no scheduler answers at tls://127"),
            pools.opened(asked),
        ):
            pass


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
