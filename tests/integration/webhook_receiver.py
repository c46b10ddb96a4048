# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody's receiver of webhooks, for peer: notes each request as a line of JSON, and answers what the path asks for.

/status/NUMBER is answered with it, /redirect/URL leads there, /slow never answers, /flaky fails twice and is well then,
/moody refuses the first attempt of one post in twenty.
"""

from __future__ import annotations

import argparse
import base64
import collections
import json
import ssl
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCK = threading.Lock()
# how often a path was asked for, and how often each post was made
SEEN: collections.Counter[str] = collections.Counter()


class Handler(BaseHTTPRequestHandler):
    log = ""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        # who posts died in the middle: no request (RFC 9112 section 8), so nothing is done about it but to note it
        whole = len(body) == length
        entry = {
            "path": self.path if whole else f"/incomplete{self.path}",
            "at": time.time(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": base64.b64encode(body).decode(),
        }
        post = self.headers.get("webhook-id", "")
        with LOCK, open(self.log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            if not whole:
                return
            SEEN.update((self.path, post))
            times, attempts = SEEN[self.path], SEEN[post]
        kind, _slash, rest = self.path.lstrip("/").partition("/")
        if kind == "slow":
            time.sleep(60)
        status = {
            "status": int(rest) if rest.isdigit() else 200,
            "redirect": 307,
            "flaky": 500 if times < 3 else 204,
            "moody": 500 if attempts == 1 and zlib.crc32(post.encode()) % 20 == 0 else 204,
        }
        self.send_response(status.get(kind, 200))
        if kind == "redirect":
            self.send_header("Location", rest)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing: what came is in the file."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()
    Handler.log = options.log
    server = ThreadingHTTPServer(("0.0.0.0", options.port), Handler)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
