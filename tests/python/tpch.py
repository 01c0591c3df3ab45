"""The 22 queries of TPC-H, and where their tables lie."""

import re
from pathlib import Path

QUERIES = sorted((Path(__file__).parents[2] / "cli" / "queries" / "tpch").glob("q*.sql"))
LAKE = ["region", "supplier", "part", "partsupp", "orders", "lineitem"]
#: Postgres tables of the demo; the fixture `whole_lake` puts them into the lake, too.
CRM = ["nation", "customer"]

#: Schema → its tables.
ICEBERG = {"lake.tpch": LAKE + CRM}
FEDERATED = {"lake.tpch": LAKE, "crm.public": CRM}


def qualified(sql, places):
    """Table names with their catalogs: where a FROM list names them, and nowhere else (`nation` is an alias too)."""
    for place, names in places.items():
        for name in names:
            sql = re.sub(rf"((?:\bfrom|\bjoin|,)\s+){name}\b", rf"\1{place}.{name}", sql)
    return sql
