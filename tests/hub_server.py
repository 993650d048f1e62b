"""A stand-in for the Hugging Face hub on this machine: the part of its HTTP interface that push and fetch use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writes"


@dataclass
class Repository:
    """The commits of a repository; each has its files by name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit to main and return its hash."""
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches["main"] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The hash of a branch or commit."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class HubServer(ThreadingHTTPServer):
    """Repositories by owner/name; only TOKEN may write, and read private ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        """Large files by their sha256."""
        self.requests: list[str] = []
        self.break_after: int | None = None
        """The next body of a large file breaks off after so many bytes."""
        self.failing: int | None = None
        """Every request is answered with this status."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage_url(self) -> str:
        """Where large files are: on another host, as the hub has it."""
        return f"http://localhost:{self.server_address[1]}/storage"


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests.append(f"{self.command} {path} {self.headers.get('Range') or ''}".strip())
        if server.failing:
            self.answer(server.failing, {"error": "out of order"})
            return
        routes = {
            r"/api/repos/create": self.create,
            r"/api/validate-yaml": self.validate,
            r"/api/models/([^/]+/[^/]+)/preupload/(.+)": self.preupload,
            r"/api/models/([^/]+/[^/]+)/commit/(.+)": self.commit,
            r"/api/models/([^/]+/[^/]+)/tree/(.+?)/?": self.tree,
            r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?": self.info,
            r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.batch,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.resolve,
            r"/storage/(\w+)": self.storage,
        }
        for pattern, answer in routes.items():
            if matched := re.fullmatch(pattern, path):
                answer(*matched.groups())
                return
        self.answer(404, {"error": f"no such address: {path}"})

    def answer(self, status: int, content: Any = None, body: bytes = b"", **headers: str) -> None:
        body = body if content is None else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def writes(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, name: str) -> Repository | None:
        """The repository, or None after an answer as the hub gives it."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.writes):
            status = 404 if self.headers.get("Authorization") else 401
            self.answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repository

    def at(self, repository: Repository, revision: str | None) -> str | None:
        sha = repository.resolve(revision or "main")
        if sha is None:
            self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return sha

    def create(self) -> None:
        given = json.loads(self.body)
        name = f"{given['organization']}/{given['name']}"
        if not self.writes:
            self.answer(401, {"error": "Invalid credentials"})
        elif given["organization"] == "others":
            self.answer(403, {"error": "You don't have the rights to create a model under the namespace others"})
        elif name in self.server.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
        else:
            repository = Repository(private=given.get("visibility") == "private" or bool(given.get("private")))
            repository.commit({})
            self.server.repositories[name] = repository
            self.answer(200, {"url": f"{self.server.url}/{name}", "id": name})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        good = re.match(r"---\nlicense: [a-z0-9.-]+\n(?:.+\n)+---\n", text)
        self.answer(*((200, {"warnings": []}) if good else (400, {"errors": [{"message": "no metadata"}]})))

    def info(self, name: str, revision: str | None) -> None:
        if (repository := self.found(name)) and (sha := self.at(repository, revision)):
            siblings = [{"rfilename": file} for file in repository.commits[sha]]
            self.answer(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        if not (repository := self.found(name)) or not (sha := self.at(repository, revision)):
            return
        entries = []
        for file, content in repository.commits[sha].items():
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": git_sha1(content)}
            if is_large(file):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)

    def preupload(self, name: str, revision: str) -> None:
        if repository := self.found(name):
            old = repository.commits[repository.branches["main"]]
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": remote_oid(file["path"], old[file["path"]]) if file["path"] in old else None,
                }
                for file in json.loads(self.body)["files"]
            ]
            self.answer(200, {"files": files})

    def batch(self, name: str) -> None:
        given = json.loads(self.body)["objects"]
        objects = [
            one if one["oid"] in self.server.stored
            else {**one, "actions": {"upload": {"href": f"{self.server.storage_url}/{one['oid']}"}}}
            for one in given
        ]  # fmt: skip
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, name: str, revision: str) -> None:
        if not (repository := self.found(name)):
            return
        if not self.writes:
            self.answer(403, {"error": "You have read access only"})
            return
        files = dict(repository.commits[repository.branches["main"]])
        for line in map(json.loads, self.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not (repository := self.found(name)) or not (sha := self.at(repository, revision)):
            return
        content = repository.commits[sha].get(file)
        if content is None:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        elif is_large(file):
            oid = hashlib.sha256(content).hexdigest()
            self.server.stored[oid] = content
            self.answer(
                302, Location=f"{self.server.storage_url}/{oid}", X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=str(len(content)), X_Repo_Commit=sha,
            )  # fmt: skip
        else:
            self.answer(200, body=content, ETag=f'"{git_sha1(content)}"', X_Repo_Commit=sha)

    def storage(self, oid: str) -> None:
        """Take a large file, or send it, from a byte on if the client asks for that."""
        server = self.server
        if self.command == "PUT":
            good = hashlib.sha256(self.body).hexdigest() == oid
            server.stored.update({oid: self.body} if good else {})
            self.answer(200 if good else 400)
            return
        content, asked = server.stored[oid], re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        sent = content[first:]
        headers = {"Content_Length": str(len(sent)), "ETag": f'"{oid}"'}
        if asked:
            headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if server.break_after is not None and self.command == "GET":
            sent, server.break_after = sent[: server.break_after], None
            self.close_connection = True
        self.answer(206 if asked else 200, body=sent, **headers)


def is_large(file: str) -> bool:
    """Whether the hub keeps a file outside git, by its ending."""
    return file.endswith((".safetensors", ".onnx", ".bin", ".pkl"))


def git_sha1(content: bytes) -> str:
    """The hash by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def remote_oid(file: str, content: bytes) -> str:
    """The hash by which the hub knows a file."""
    return hashlib.sha256(content).hexdigest() if is_large(file) else git_sha1(content)
