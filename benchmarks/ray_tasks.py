"""Ray's side of ``functions``, run by an interpreter that has Ray: tasks a second, as JSON.

``ray_tasks.py WORKERS COUNT:ROUNDS …``: it starts Ray on this machine alone, warms it, and has each
batch done as Ray's own documents show it: one remote call a task, then all results at once.
"""

from __future__ import annotations

import json
import sys
import time

import ray  # type: ignore[import-not-found]
from tasks import task


def main() -> None:
    workers = int(sys.argv[1])
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(task)
    ray.get([remote.remote(0) for _ in range(50 * workers)])
    rates = []
    for batch in sys.argv[2:]:
        count, rounds = map(int, batch.split(":"))
        begun = time.perf_counter()
        ray.get([remote.remote(rounds) for _ in range(count)])
        rates.append(count / (time.perf_counter() - begun))
    ray.shutdown()
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
