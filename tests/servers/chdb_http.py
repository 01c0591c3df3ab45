"""ClickHouse's HTTP interface, as far as our tests need it, over the embedded modern engine (PyPI `chdb`).

`python chdb_http.py PORT FOLDER`. The engine is ClickHouse's own; the HTTP in front of it is ours: one statement at a time, the
whole answer at once, no users. Settings come as parameters of the URL, as at a server.
"""

import http.server
import re
import sys
import threading
import urllib.parse

from chdb import session

ENGINE = session.Session(sys.argv[2])
TURN = threading.Lock()
# Parameters that are no settings, and settings that only a server has.
NO_SETTINGS = {"query", "query_id", "database", "default_format", "wait_end_of_query", "readonly"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, b"Ok.\n", {})

    def do_POST(self):
        parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        sql = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        format_ = "TabSeparated"
        named = re.search(r"\bFORMAT\s+(\w+)\s*$", sql)
        if named:
            sql, format_ = sql[: named.start()], named.group(1)
        settings = [f"{name} = {value if value.isdigit() else repr(value)}" for name, value in parameters.items() if name not in NO_SETTINGS]
        if settings and sql.lstrip().upper().startswith("SELECT"):
            sql += " SETTINGS " + ", ".join(settings)
        try:
            with TURN:
                rows = ENGINE.query(sql, format_)
            self.answer(200, rows.bytes() if rows is not None else b"", {"X-ClickHouse-Format": format_})
        except Exception as error:  # noqa: BLE001: whatever it is, it is the answer
            text = str(error)
            code = re.search(r"Code: (\d+)", text)
            self.answer(500, text.encode(), {"X-ClickHouse-Exception-Code": code.group(1)} if code else {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
