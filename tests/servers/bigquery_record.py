"""Records what Google's own Python client sends to, and gets from, the named emulator, as tests/it/bigquery/recorded.json: what our
connector sends for the same reads is compared with it. Run by hand: bigquery_record.py <REST port> <gRPC port> of an emulator that was
started with `--project town`.
"""
import base64
import importlib.metadata as metadata
import json
import pathlib
import sys

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient, types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

rest_port, grpc_port = sys.argv[1:]
calls = []


class Recorder(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def note(self, details, request):
        message = type(request).serialize(request) if hasattr(type(request), "serialize") else request.SerializeToString()
        routing = dict(details.metadata or ()).get("x-goog-request-params")
        calls.append({"method": details.method, "routing": routing, "request": base64.b64encode(message).decode(), "responses": []})
        return calls[-1]["responses"]

    def intercept_unary_unary(self, proceed, details, request):
        into = self.note(details, request)
        answered = proceed(details, request)
        response = answered.result()
        into.append(base64.b64encode(type(response).serialize(response)).decode())
        return answered

    def intercept_unary_stream(self, proceed, details, request):
        into = self.note(details, request)
        for response in proceed(details, request):
            into.append(base64.b64encode(type(response).serialize(response)).decode())
            yield response


client = bigquery.Client(
    project="town", credentials=AnonymousCredentials(), client_options={"api_endpoint": f"http://127.0.0.1:{rest_port}"}
)
rest = []
real = client._connection.api_request


def api_request(**call):
    answer = real(**call)
    keep = {key: call.get(key) for key in ("method", "path", "query_params", "data") if call.get(key)}
    rest.append({**keep, "answer": answer})
    return answer


client._connection.api_request = api_request
client.delete_dataset("recorded", delete_contents=True, not_found_ok=True)
client.create_dataset("recorded", timeout=20, retry=None)
client.create_table(
    bigquery.Table(
        "town.recorded.t",
        schema=[
            bigquery.SchemaField("id", "INTEGER", mode="REQUIRED", description="who"),
            bigquery.SchemaField("s", "STRING"),
            bigquery.SchemaField("n", "NUMERIC"),
            bigquery.SchemaField("ts", "TIMESTAMP"),
        ],
    )
)
client.query(
    "INSERT INTO recorded.t (id, s, n, ts) VALUES (1, 'a', NUMERIC '1.5', TIMESTAMP '2024-01-01 00:00:00+00'), (2, NULL, NULL, NULL)"
).result()
rest.clear()
list(client.list_datasets())
list(client.list_tables("recorded", max_results=1000))
client.get_table("town.recorded.t")
limit = bigquery.QueryJobConfig(dry_run=True, maximum_bytes_billed=1000)
client.query("SELECT `id` FROM `town`.`recorded`.`t`", job_config=limit, retry=None)
limit = bigquery.QueryJobConfig(maximum_bytes_billed=1000, labels={"townlake_query": "q"})
client.query("SELECT `id` FROM `town`.`recorded`.`t`", job_config=limit, job_id="townlake-q-1", retry=None, job_retry=None).result()

channel = grpc.intercept_channel(grpc.insecure_channel(f"127.0.0.1:{grpc_port}"), Recorder())
reader = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
options = types.ReadSession.TableReadOptions(
    selected_fields=["id", "s", "n", "ts"],
    row_restriction="(`id` > 0)",
    arrow_serialization_options=types.ArrowSerializationOptions(buffer_compression=1),
)
moment = {"seconds": 1_900_000_000, "nanos": 123_456_000}
session = types.ReadSession(
    table="projects/town/datasets/recorded/tables/t",
    data_format=types.DataFormat.ARROW,
    read_options=options,
    table_modifiers=types.ReadSession.TableModifiers(snapshot_time=moment),
    trace_id="townlake:q",
)
session = reader.create_read_session(parent="projects/town", read_session=session, max_stream_count=4, timeout=20)
rows = []
for stream in session.streams:
    for page in reader.read_rows(stream.name, offset=0, timeout=20).rows(session).pages:
        rows += page.to_arrow().to_pylist()

packages = ["bqemulator", "google-cloud-bigquery", "google-cloud-bigquery-storage"]
origin = (
    "Recorded by tests/servers/bigquery_record.py: Google's own Python clients against the emulator bqemulator, not against Google. "
    + ", ".join(f"{package} {metadata.version(package)}" for package in packages)
)
path = pathlib.Path(__file__).parents[1] / "it/bigquery/recorded.json"
path.write_text(json.dumps({"origin": origin, "grpc": calls, "rest": rest, "rows": rows}, indent=1, default=str) + "\n")
print(path, len(calls), len(rest))
