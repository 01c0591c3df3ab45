"""A door in front of a real schema registry, as companies have one: TLS, and a login (Basic or Bearer) on every request.

`python registry_door.py PORT REGISTRY_PORT CERTIFICATE USER:PASSWORD TOKEN`. What comes without a login gets 401, one that is
wrong 403; all else is handed on.
"""

import base64
import http.server
import ssl
import sys
import urllib.error
import urllib.request

PORT, BEHIND, CERTIFICATE, LOGIN, TOKEN = sys.argv[1:]
WELCOME = {"Basic " + base64.b64encode(LOGIN.encode()).decode(), "Bearer " + TOKEN}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        login = self.headers.get("Authorization")
        if login not in WELCOME:
            return self.answer(403 if login else 401, b"")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{BEHIND}{self.path}") as answer:
                self.answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(PORT)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
