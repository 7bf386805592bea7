"""A Hub on 127.0.0.1: the part of its protocol that reading models takes, for the real client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Fault:
    """What to answer instead, for requests whose "METHOD /path" contains `on`.

    status 0 closes the connection without an answer, -1 never answers until the hub is closed, None answers
    as usual. delay: seconds before that.
    """

    on: str
    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    delay: float = 0.0


@dataclass
class FakeHub:
    """repos: repo id -> branch or commit -> files. Branches point at the commit made of their files."""

    url: str
    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    # What a search answers about a repository, beside its id: tags, downloads and the like.
    about: dict[str, dict[str, object]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: Files, branch: str = "main") -> str:
        """Publishes `files` on a branch; returns the commit."""
        content = repr(sorted(files.items())).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.repos.setdefault(repo, {}).update({branch: files, commit: files})
        return commit

    def commit(self, repo: str, revision: str) -> str | None:
        versions = self.repos[repo]
        if revision not in versions:
            return None
        return next(
            name for name, files in versions.items() if len(name) == 40 and files is versions[revision]
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Keeps the test output free of access logs."""

    def do_GET(self) -> None:
        line = f"{self.command} {unquote(urlsplit(self.path).path)}"
        self.hub.requests.append(line)
        self.hub.tokens.append(self.headers.get("Authorization"))
        for fault in list(self.hub.faults):
            if fault.on in line:
                self.hub.closing.wait(fault.delay)
                if fault.status is not None:
                    return self._fail(fault)
        parts = line.split(" ", 1)[1].strip("/").split("/")
        if parts == ["api", "models"]:
            return self._search(parse_qs(urlsplit(self.path).query))
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4:])
        if parts[2:3] != ["resolve"]:
            return self._answer(404, b"{}")
        return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    do_HEAD = do_GET

    def _fail(self, fault: Fault) -> None:
        assert fault.status is not None
        if fault.status <= 0:
            if fault.status:
                self.hub.closing.wait()
            self.close_connection = True
            return
        self._answer(fault.status, fault.body, fault.headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.hub.sent += len(body)
            self.wfile.write(body)

    def _missing(self, code: str, status: int = 404) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _api(self, repo: str, rest: list[str]) -> None:
        if repo not in self.hub.repos:
            # The real Hub does not tell strangers whether a private repository exists.
            return self._missing("RepoNotFound", 401)
        commit = self.hub.commit(repo, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self._missing("RevisionNotFound")
        files = self.hub.repos[repo][commit]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return self._answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        info = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _search(self, query: dict[str, list[str]]) -> None:
        """Repositories with all tags of `filter`, whose ids have the words of `search`."""
        words, wanted = query.get("search", [""])[0].lower(), set(query.get("filter", []))
        found = [
            {"id": repo, "_id": repo, **about}
            for repo, about in self.hub.about.items()
            if words in repo.lower() and wanted <= set(about.get("tags", ()))
        ]
        found.sort(key=lambda each: str(each.get("downloads", 0)), reverse=True)
        body = json.dumps(found[: int(query.get("limit", ["100"])[0])]).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        if repo not in self.hub.repos:
            return self._missing("RepoNotFound", 401)
        if repo in self.hub.gated:
            return self._missing("GatedRepo", 403)
        commit = self.hub.commit(repo, revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        data = self.hub.repos[repo][commit].get(file)
        if data is None:
            return self._missing("EntryNotFound")
        etag = hashlib.sha256(data).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{etag}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        span = self.headers.get("Range")
        if span is None:
            return self._answer(200, data, headers)
        first, last = span.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self._answer(206, part, headers)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub; closed on leaving, which also ends requests it never answered."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub = handler.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
