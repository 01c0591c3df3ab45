"""What the BigQuery tests have Google's own client do: reads JSON commands from standard input, one a line, and runs them.

{"dataset": "d"}                                a dataset
{"table": "d.t", "fields": [["i", "INTEGER", "REQUIRED"], …]}   a table
{"sql": "…"}                                    a statement
{"read": "d.t", "fields": […], "where": "…", "streams": 4}      rows over the Storage API, as Google's client decodes them
"""
import json
import sys

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

PROJECT = "town"


def fields_of(fields):
    return [
        bigquery.SchemaField(name, declared, mode=mode, **({"fields": fields_of(rest[0])} if rest else {}))
        for name, declared, mode, *rest in fields
    ]


def main(rest_port, grpc_port):
    door = {"api_endpoint": f"http://127.0.0.1:{rest_port}"}
    client = bigquery.Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=door)
    for line in sys.stdin:
        command = json.loads(line)
        if "dataset" in command:
            client.create_dataset(command["dataset"], timeout=20, retry=None)
        elif "table" in command:
            table = bigquery.Table(f"{PROJECT}.{command['table']}", schema=fields_of(command["fields"]))
            client.create_table(table, timeout=20, retry=None)
        elif "sql" in command:
            client.query(command["sql"], timeout=60, retry=None, job_retry=None).result(timeout=120)
        elif "read" in command:
            channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
            reader = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
            dataset, table = command["read"].split(".")
            options = types.ReadSession.TableReadOptions(
                selected_fields=command.get("fields", []), row_restriction=command.get("where", "")
            )
            session = types.ReadSession(
                table=f"projects/{PROJECT}/datasets/{dataset}/tables/{table}",
                data_format=types.DataFormat.ARROW,
                read_options=options,
            )
            session = reader.create_read_session(
                parent=f"projects/{PROJECT}", read_session=session, max_stream_count=command.get("streams", 1), timeout=20
            )
            rows = []
            for stream in session.streams:
                for page in reader.read_rows(stream.name, timeout=60).rows(session).pages:
                    rows += page.to_arrow().to_pylist()
            print(json.dumps(rows, default=str))
    sys.stdout.flush()


main(*sys.argv[1:])
