"""A large result and a slow reader: no side may hold the result in memory.

The slice reads a few hundred megabytes; `make soak` (TOWNLAKE_SOAK=1) reads 5 GB at a few MB/s for a minute, then the rest.
"""

import os
import time
from pathlib import Path

SOAK = bool(os.environ.get("TOWNLAKE_SOAK"))
COPIES = 640 if SOAK else 32  # of lineitem at scale 0.01: about 8 MB each as Arrow
LIMIT = 512 << 20


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


def test_memory_stays_bounded_while_a_slow_reader_reads(demo):
    nodes = family(demo.process.pid)
    assert sorted(nodes.values()) == ["coordinator", "executor", "executor"]
    with demo.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM lake.tpch.lineitem")
        rows = cursor.fetchone()[0]
        cursor.execute("SET SESSION execution = 'cluster'")  # so that the executors make the result, not the coordinator
        cursor.fetchall()
        before = {pid: resident(pid) for pid in [*nodes, os.getpid()]}
        grown = dict.fromkeys(before, 0)
        cursor.execute(f"SELECT l.* FROM lake.tpch.lineitem l CROSS JOIN generate_series(1, {COPIES}) AS s(n)")
        reader = cursor.fetch_record_batch()
        seen, size, largest, started = 0, 0, 0, time.monotonic()
        slow_for = 60 if SOAK else 4
        for batch in reader:
            seen += batch.num_rows
            size += batch.nbytes
            largest = max(largest, batch.nbytes)
            if time.monotonic() - started < slow_for:
                time.sleep(batch.nbytes / (4 << 20))  # about 4 MB/s
            if seen % 64 < 8:
                for pid in grown:
                    grown[pid] = max(grown[pid], resident(pid) - before[pid])
    assert seen == rows * COPIES
    assert largest <= 4 << 20, f"a batch of {largest} bytes"
    print(f"{size >> 20} MiB read; growth in MiB: {[(nodes.get(pid, 'client'), g >> 20) for pid, g in grown.items()]}")
    assert all(growth < LIMIT for growth in grown.values()), grown
