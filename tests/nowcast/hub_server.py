"""A server with the calls of the Hugging Face Hub that a download and an upload of a model make, on this machine."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CALL = re.compile(r"(?:/api/models)?/([^/]+/[^/]+)(?:/(\w+)/[^/]+(?:/(.+))?)?")


class Hub:
    """The repositories of the server, as file contents by name; each has one commit."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()

    def answer(self, path: str, body: bytes) -> object:
        """Return the answer to a call: JSON values, the bytes of a file, or None for what does not exist."""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        found = _CALL.fullmatch(path)
        if found is None or found[1] not in self.repositories:
            return None
        name, call, file = found.groups()
        calls = {
            "tree": lambda: [
                {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
                for path, data in self.repositories[name].items()
            ],
            "resolve": lambda: self.repositories[name].get(file),
            "preupload": lambda: {
                "files": [
                    {"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for entry in json.loads(body)["files"]
                ]
            },
            "commit": lambda: self._commit(name, body),
        }
        return calls.get(call, lambda: self._info(name))()

    def _create(self, wanted: dict[str, object]) -> object:
        name = f"{wanted['organization']}/{wanted['name']}"
        self.repositories.setdefault(name, {})
        self.private[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        return {"url": f"{self.address}/{name}", "name": name}

    def _info(self, name: str) -> object:
        files = [{"rfilename": path} for path in self.repositories[name]]
        return {"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "private": self.private[name]}

    def _commit(self, name: str, body: bytes) -> object:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run the server on a free port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _call(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization"))
            answer = hub.answer(self.path.partition("?")[0], body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(data)))
            if answer is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            if isinstance(answer, bytes):
                self.send_header("ETag", f'"{sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = _call  # noqa: N815 (the names of the library)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
