"""A server that can misbehave, and what fetches from it."""

import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from fcd.download.fetch import Fetcher
from tests.download.shipped import BARREN


class Handler(BaseHTTPRequestHandler):
    """Serves `server.payloads`; `server.faults[path]` lists what to do wrong next."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        faults = self.server.faults[self.path]
        fault = faults.pop(0) if faults else ""
        payload = self.server.payloads.get(Path(self.path).name.split(".")[0])
        if payload is None or fault == "404":
            self.send_error(404)
        elif fault.startswith(("429", "503")):
            status, retry_after = fault.split(" ", 1)
            self.answer(int(status), b"later", {"Retry-After": retry_after})
        elif fault == "html":
            self.answer(200, b"<html>moved</html>", {"Content-Type": "text/html"})
        elif fault == "redirect":
            self.answer(302, b"", {"Location": self.path.replace("/mirror", "/elsewhere")})
        else:
            self.send_payload(payload, fault)

    def answer(self, status, body, headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length != "unknown":
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_payload(self, payload, fault):
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        headers = {"ETag": self.server.etag, "Content-Encoding": "x-gzip"}
        changed = self.headers.get("If-Range", self.server.etag) != self.server.etag
        if not wanted or changed or "no range" in fault:
            status, start = 200, 0
        elif start >= len(payload):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(payload)}"})
        else:
            status, end = 206, len(payload)
            begin = 0 if "wrong range" in fault else start
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{end}"
        body, length = payload[start:], None
        if "flip" in fault:
            body = body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
        if "cut" in fault:
            length, body = len(body), body[: len(body) // 2]
        if "too long" in fault:
            length = len(body) + 1000
        if "unknown length" in fault:
            length = "unknown"
        if "stall" in fault:
            self.answer(status, body[:100_000], headers, len(body))
            return self.server.released.wait(10)
        return self.answer(status, body, headers, length)


def fetcher(timeout=5, retries=3):
    return Fetcher(timeout=timeout, retries=retries, stop=threading.Event(), backoff=0.01)


def fetch_one(server, path, scene=BARREN, settings=None, **options):
    options.setdefault("max_bytes", 10**8)
    (settings or fetcher()).fetch(f"{server.url}/{scene}.tar.gz", path, **options)


def faults(server, *names, scene=BARREN):
    server.faults[f"/mirror/{scene}.tar.gz"].extend(names)


def header(server, name):
    return [headers.get(name) for _, headers in server.requests]
