"""The real hub client against a local server that speaks enough of the hub's protocol."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bmrl.pipeline.store import hub
from bmrl.pipeline.store.hub import HubError

CONTENT = b"".join(i.to_bytes(4, "big") for i in range(1 << 20))  # 4 MiB, no two kilobytes alike
REVISION = "0123456789abcdef0123456789abcdef01234567"
FIRST = hub.Mirror(repository="someone/faces", revision=REVISION, file="weights.pth")
SECOND = hub.Mirror(repository="other/faces", revision="f" * 40, file="weights.pth")


@dataclass
class FakeHub:
    """What the server serves, by repository, and what it was asked."""

    content: dict[str, bytes] = field(default_factory=dict)
    drop_after: int | None = None  # bytes of a body after which the connection is cut
    drops: int = 0  # how many times
    short_by: int = 0  # bytes missing at the end of a body that claims to be whole
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    address: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            return

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            fake.requests.append((self.command, self.path, self.headers.get("Range", "")))
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision = rest.split("/")[0]
            content = fake.content.get(repository)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", revision)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if not body:
                return
            end = len(content) - fake.short_by
            if fake.drop_after is not None and fake.drops > 0:
                fake.drops -= 1
                end = min(end, start + fake.drop_after)
            self.wfile.write(content[start:end])
            if end < len(content):
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", fake.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its own retries
    yield fake
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def pin(*mirrors: hub.Mirror, content: bytes = CONTENT) -> hub.Pin:
    return hub.Pin(size=len(content), sha256=hashlib.sha256(content).hexdigest(), mirrors=mirrors or (FIRST,))


def weights_in(cache: Path) -> list[str]:
    """Every file of the cache that holds content, whole or partial."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.name != "CACHEDIR.TAG")
    return sorted(path.name for path in files if path.stat().st_size > 0)  # the client's locks are empty


def test_download_is_verified_and_then_comes_from_the_cache(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT
    path = hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert path.read_bytes() == CONTENT and path.is_relative_to(tmp_path)
    assert ("HEAD", f"/someone/faces/resolve/{REVISION}/weights.pth", "") in server.requests
    asked = len(server.requests)
    assert hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path) == path
    assert len(server.requests) == asked


def test_drop_in_mid_download_is_resumed(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT
    server.drop_after, server.drops = 1 << 20, 2
    assert hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path).read_bytes() == CONTENT


def test_endless_drops_fail_cleanly_and_the_next_try_succeeds(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT
    server.drop_after, server.drops = 0, 1000
    with pytest.raises(HubError, match="download") as caught:
        hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert "or give FILE" in str(caught.value) and "\n" not in str(caught.value)
    assert weights_in(tmp_path) == []
    server.drops = 0
    assert hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path).read_bytes() == CONTENT


def test_wrong_hash_is_refused_and_removed(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT[:-1] + b"?"
    with pytest.raises(HubError, match="sha256"):
        hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert weights_in(tmp_path) == []


def test_truncated_file_is_refused_and_removed(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT[:1000]  # the mirror itself holds a cut file
    with pytest.raises(HubError, match=f"1000 bytes came instead of {len(CONTENT)}"):
        hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert weights_in(tmp_path) == []


def test_body_that_ends_short_leaves_nothing(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT
    server.short_by = len(CONTENT)
    with pytest.raises(HubError, match="download"):
        hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert weights_in(tmp_path) == []


def test_mirrors_are_tried_in_order(server: FakeHub, tmp_path: Path) -> None:
    server.content["other/faces"] = CONTENT
    path = hub.fetch(pin(FIRST, SECOND), what="the weights", otherwise="or give FILE", cache=tmp_path)
    assert path.read_bytes() == CONTENT and "other--faces" in str(path)
    asked = [path for _, path, _ in server.requests]
    assert asked[0].startswith("/someone/faces/") and asked[-1].startswith("/other/faces/")


def test_mirror_with_a_wrong_file_is_passed_over(server: FakeHub, tmp_path: Path) -> None:
    server.content = {"someone/faces": b"x" * len(CONTENT), "other/faces": CONTENT}
    assert (
        hub.fetch(pin(FIRST, SECOND), what="the weights", otherwise="or give FILE", cache=tmp_path).read_bytes()
        == CONTENT
    )


def test_damaged_file_in_the_cache_is_fetched_again(server: FakeHub, tmp_path: Path) -> None:
    server.content["someone/faces"] = CONTENT
    path = hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path)
    path.resolve().write_bytes(b"damaged")
    assert hub.fetch(pin(), what="the weights", otherwise="or give FILE", cache=tmp_path).read_bytes() == CONTENT


def test_offline_names_each_mirror_and_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")  # nobody listens
    with pytest.raises(HubError) as caught:
        hub.fetch(pin(FIRST, SECOND), what="the weights", otherwise="or give FILE", cache=tmp_path)
    text = str(caught.value)
    assert "someone/faces: not reachable" in text and "other/faces: not reachable" in text
    assert text.startswith("the weights cannot be had (") and text.endswith("or give FILE") and "\n" not in text
    assert weights_in(tmp_path) == []
