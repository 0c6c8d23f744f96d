"""Serve notes over HTTP: python3 -m notes PORT."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from notes import Notes

NOTES = Notes()
NOTES.add("water the plants")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = {"/health": "ok", "/notes": NOTES.all()}
        body = json.dumps(known.get(self.path)).encode()
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
