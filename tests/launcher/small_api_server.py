"""An API server of Kubernetes' as far as the real kubectl needs one: discovery, and objects in
memory that fit the published schemas."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.launcher.kubernetes_schema import faults

GROUPS = {
    ("jobset.x-k8s.io", "v1alpha2"): {"jobsets": "JobSet"},
    ("trainer.kubeflow.org", "v1alpha1"): {
        "trainjobs": "TrainJob",
        "trainingruntimes": "TrainingRuntime",
    },
    ("", "v1"): {"pods": "Pod"},
}


class SmallApiServer:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.deletions: list[dict[str, Any]] = []
        """What was asked for with each."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                code, content = outer.answer(self.command, self.path, body)
                sent = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_DELETE = handle_one

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, verb: str, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path.strip("/").split("/")
        if path == ["version"]:
            return 200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        if path == ["api"]:
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == ["apis"]:
            groups = [
                {"name": g, "versions": [{"groupVersion": f"{g}/{v}", "version": v}]}
                for g, v in GROUPS
                if g
            ]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        group, version, *rest = ["", *path[1:]] if path[0] == "api" else path[1:]
        kinds = GROUPS.get((group, version))
        if path[0] not in ("api", "apis") or kinds is None:
            return failure(404, "NotFound", f"the server could not find {url.path}")
        if not rest:
            return 200, {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{group}/{version}".strip("/"),
                "resources": [
                    {"name": name, "singularName": "", "namespaced": True, "kind": kind}
                    | {"verbs": ["create", "delete", "get", "list"]}
                    for name, kind in kinds.items()
                ],
            }
        return self.act(verb, rest[2:], group, body, query)

    def act(
        self, verb: str, rest: list[str], group: str, body: dict[str, Any], query: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        kind = rest[0]
        if verb == "POST":
            name = body["metadata"]["name"]
            if found := faults(body):
                return failure(400, "BadRequest", f"strict decoding error: {'; '.join(found)}")
            if (kind, name) in self.objects:
                return failure(409, "AlreadyExists", f'{kind}.{group} "{name}" already exists')
            self.objects[kind, name] = body
            return 201, body
        if verb == "GET":
            label, _, value = query["labelSelector"].partition("=")
            items = [
                item
                for (of, _), item in self.objects.items()
                if of == kind and item["metadata"].get("labels", {}).get(label) == value
            ]
            listed = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}}
            return 200, {**listed, "items": items}
        self.deletions.append(body)
        if self.objects.pop((kind, rest[1]), None) is None:
            return failure(404, "NotFound", f'{kind}.{group} "{rest[1]}" not found')
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}


def failure(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return code, {**status, "reason": reason, "code": code, "message": message}
