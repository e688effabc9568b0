"""A server on this machine that speaks as much of the hub's protocol as downloads need, and misbehaves on request."""

import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"


class Hub:
    """`repos`: {"owner/name": {"path/in/it": bytes}}. `mood`: what goes wrong, {"slow": seconds}, {"cut": True},
    {"status": 429}, {"wrong": True}; `asked` counts the requests, `sent` the files."""

    def __init__(self, repos):
        self.repos, self.mood, self.asked, self.sent = repos, {}, 0, []

    @contextlib.contextmanager
    def running(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, head=True)

            def do_GET(self):
                hub.answer(self, head=False)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, request, head):
        self.asked += 1
        if status := self.mood.get("status"):
            return self.reply(request, status, b'{"error": "no"}', {"Content-Type": "application/json"}, head)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/revision/([^/?]+))?(\?.*)?", request.path):
            return self.about(request, match[1], match[3], head)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", request.path):
            return self.file(request, match[1], match[3], head)
        return self.missing(request, "EntryNotFound", head)

    def about(self, request, repo, revision, head):
        if repo not in self.repos:
            return self.missing(request, "RepoNotFound", head, 401)
        if revision not in (None, "main", "v1", COMMIT):
            return self.missing(request, "RevisionNotFound", head)
        files = self.repos[repo].items()
        siblings = [{"rfilename": name, "size": len(data), "blobId": blob(data)} for name, data in files]
        text = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        return self.reply(request, 200, text.encode(), {"Content-Type": "application/json"}, head)

    def file(self, request, repo, name, head):
        data = self.repos.get(repo, {}).get(name)
        if data is None:
            return self.missing(request, "EntryNotFound", head)
        etag = hashlib.sha256(data).hexdigest() if name.endswith((".safetensors", ".bin")) else blob(data)
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if name.endswith((".safetensors", ".bin")):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if not head:
            self.sent.append(name)
            time.sleep(self.mood.get("slow", 0))
        if self.mood.get("wrong"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        first = int(re.match(r"bytes=(\d+)-", request.headers.get("Range") or "bytes=0-")[1])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        return self.reply(
            request, 206 if first else 200, data[first:], headers, head, self.mood.get("cut") and len(data) > 1000
        )

    def missing(self, request, code, head, status=404):
        return self.reply(request, status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}, head)

    def reply(self, request, status, data, headers, head, cut=False):
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if not head:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has lost patience
                request.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            request.close_connection = True


def blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
