"""What tests of the download share."""

import threading
from collections import defaultdict
from http.server import ThreadingHTTPServer

import pytest

from tests.download.server import Handler
from tests.download.shipped import BARREN, FOREST, scene_files, scene_members, tar


@pytest.fixture(scope="module")
def payloads():
    return {scene: tar(scene_members(scene, scene_files(scene, 128))) for scene in (BARREN, FOREST)}


@pytest.fixture
def server(payloads, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.payloads, running.etag = dict(payloads), '"v1"'
        running.faults, running.requests = defaultdict(list), []
        running.released = threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}/mirror"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()
