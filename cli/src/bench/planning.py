"""Plans scans of a table of the benchmark: folder, table, day and id are the arguments."""

import datetime
import sys
import time

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import And, EqualTo

folder, name, day, wanted = sys.argv[1:]
catalog = SqlCatalog("lake", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
table = catalog.load_table(f"s.{name}")
day = datetime.date(1970, 1, 1) + datetime.timedelta(days=int(day))
by_id = EqualTo("id", int(wanted))
for label, scan in [
    ("everything", table.scan()),
    ("one id", table.scan(row_filter=by_id)),
    ("one id of one day", table.scan(row_filter=And(EqualTo("day", day.isoformat()), by_id))),
]:
    for attempt in ["first", "again"]:
        started = time.perf_counter()
        planned = len(list(scan.plan_files()))
        print(f"{label}, {attempt}: {planned} files in {(time.perf_counter() - started) * 1000:.1f} ms")
