"""ClickHouse's HTTP interface, as far as the store's client speaks it, before the engine in this process (chdb).

    front.py FOLDER [PORT]

Prints its port, and ends when standard input does, after it has removed the folder. One request is carried out at a time. A database is made when it is first
named.
"""

import http.server
import os
import shutil
import sys
import tempfile
import threading
import urllib.parse

from chdb import session

engine = session.Session(os.path.join(sys.argv[1], "data"))
lock = threading.Lock()
known = set()


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query, keep_blank_values=True))
        body = self.body()
        with lock:
            try:
                answer, status = self.carry_out(asked, body), 200
            except Exception as error:
                answer, status = str(error).encode(), 500
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status != 200:
            self.send_header("X-ClickHouse-Exception-Code", "1")
        self.end_headers()
        self.wfile.write(answer)

    def carry_out(self, asked, body):
        database = asked.pop("database", "default")
        if database not in known:
            engine.query(f"CREATE DATABASE IF NOT EXISTS `{database}`")
            known.add(database)
        engine.query(f"USE `{database}`")
        wanted, query = asked.pop("default_format", "TabSeparated"), asked.pop("query", None)
        settings = {name: value for name, value in asked.items() if name in ("mutations_sync",)}
        for name, value in settings.items():
            engine.query(f"SET {name} = {value}")
        if query is None:
            return engine.query(body.decode(), wanted).bytes()
        if not body:
            return engine.query(query, wanted).bytes()
        # What comes with a statement is what it inserts.
        with tempfile.NamedTemporaryFile(dir=sys.argv[1], delete=False) as file:
            file.write(body)
        statement, form = query.rsplit(" FORMAT ", 1)
        try:
            return engine.query(f"{statement} FROM INFILE '{file.name}' FORMAT {form}").bytes()
        finally:
            os.unlink(file.name)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Front)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
os._exit(0)
