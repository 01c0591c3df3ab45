"""A large result and a slow reader: no side may hold the result in memory, and no message may be larger than plain gRPC takes.

The slice reads about 300 MB at 24 MB/s; `make soak` (TOWNLAKE_SOAK=1) reads 5 GB, the first minute of it at 4 MB/s.
"""

import os
import time
from pathlib import Path

import pytest

SOAK = bool(os.environ.get("TOWNLAKE_SOAK"))
#: Of lineitem at scale 0.1: about 80 MB each as Arrow.
COPIES = 64 if SOAK else 4
#: Bytes a second, and for how many seconds.
SPEED, SLOW_FOR = (4 << 20, 60) if SOAK else (24 << 20, 3600)
#: What coordinator, executors and this client may grow by: less than half of the slice. Of it, results may have 63 MB in an executor's memory.
LIMIT = 96 << 20
#: What a gRPC client takes that was told nothing.
MESSAGE = 4 << 20
MAX_MESSAGE = "adbc.flight.sql.client_option.with_max_msg_size"


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def family(pid):
    """The demo's nodes: coordinator and executors (not Postgres, not etcd)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children += (thread / "children").read_text().split()
    nodes = {}
    for child in set(children):
        command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if len(command) > 1 and command[1] in ("coordinator", "executor"):
            nodes[int(child)] = command[1]
    return nodes


def copies(count):
    return " UNION ALL ".join(["SELECT * FROM lake.tpch.lineitem"] * count)


def on_the_cluster(cursor):
    """So that the executors make the result, not the coordinator."""
    cursor.execute("SET SESSION execution = 'cluster'")
    cursor.fetchall()


def test_memory_stays_bounded_while_a_slow_reader_reads(demo):
    nodes = family(demo.process.pid)
    assert sorted(nodes.values()) == ["coordinator", "executor", "executor"]
    # The client refuses a larger message by itself: it is measured where it matters, on the wire.
    with demo.connect(**{MAX_MESSAGE: str(MESSAGE)}) as connection, connection.cursor() as cursor:
        on_the_cluster(cursor)
        cursor.execute(copies(1))
        warm = sum(batch.num_rows for batch in cursor.fetch_record_batch())
        before = {pid: resident(pid) for pid in [*nodes, os.getpid()]}
        grown = dict.fromkeys(before, 0)
        cursor.execute(copies(COPIES))
        seen, size, started = 0, 0, time.monotonic()
        for batch in cursor.fetch_record_batch():
            seen += batch.num_rows
            size += batch.nbytes
            if time.monotonic() - started < SLOW_FOR:
                time.sleep(batch.nbytes / SPEED)
            for pid in grown:
                grown[pid] = max(grown[pid], resident(pid) - before[pid])
    assert seen == warm * COPIES
    shown = [(nodes.get(pid, "client"), growth >> 20) for pid, growth in grown.items()]
    print(f"{size >> 20} MiB read; growth in MiB: {shown}")
    assert size > 2.5 * LIMIT, "a result that fits below the limit proves nothing"
    assert all(growth < LIMIT for growth in grown.values()), shown


def test_a_client_with_a_small_limit_refuses_messages(demo):
    """The limit of the test above bites: the same client told 64 KiB fails, because our frames are larger than that."""
    with demo.connect(**{MAX_MESSAGE: str(64 << 10)}) as connection, connection.cursor() as cursor:
        on_the_cluster(cursor)
        with pytest.raises(Exception, match="(?i)larger than max"):
            cursor.execute(copies(1))
            for _ in cursor.fetch_record_batch():
                pass
