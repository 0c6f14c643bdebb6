"""Workers of Dask's that only sleep, many in one process: `python -m benchmarks.asleep`.

They stand in for machines that there are not. Each has a thread for its tasks; what Dask would have
each do beside them many times a second, which costs a machine nothing and many of them in one
process everything, they do once in a while.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import time

from robustra_tf.cli import command
from robustra_tf.cli.settings import Range

_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.system-monitor.gil.enabled": False,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Whose workers, and how many."""

    scheduler: str = command.setting("its address", "tcp://127.0.0.1:8786")
    workers: int = command.setting("in this process", 20, range=Range(1))

    def __post_init__(self):
        command.check(self)


def asleep(seconds: float) -> tuple[float, str]:
    """A job; what it slept, and the key of its task."""
    from distributed import get_worker

    time.sleep(seconds)
    return seconds, str(get_worker().get_current_task())


async def serve(config: Config) -> None:
    """Begins the workers; they end with their scheduler."""
    import dask.config
    import distributed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(_QUIET):
        begun = [
            distributed.Worker(
                config.scheduler,
                nthreads=1,
                memory_limit=0,
                dashboard=False,
                host="127.0.0.1",
                heartbeat_interval="5s",
            )
            for _ in range(config.workers)
        ]
        await asyncio.gather(*begun)
        await asyncio.gather(*(worker.finished() for worker in begun))


if __name__ == "__main__":
    asyncio.run(serve(command.read(Config, "benchmarks.asleep", __doc__)))
    sys.exit(0)
