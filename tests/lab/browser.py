"""A headless Chromium, driven by the DevTools protocol over a pipe (no port, no other package)."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ANSWER_S = 60.0
"""A browser on a machine that is busy otherwise."""


def program() -> str | None:
    """Where Chromium is; None where it is not."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Navigated(Exception):
    """The page that was asked made room for another before it answered."""


class Page:
    """One tab. What its console complains of is kept in `complaints`."""

    def __init__(self, browser: "_Browser", session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        answer = self._browser.send(method, params, self._session)
        for event in self._browser.events:
            self._hear(event.get("method"), event.get("params", {}))
        self._browser.events.clear()
        return answer

    def _hear(self, method: Any, params: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} ({params['entry'].get('url')})")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"])[:500])

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true; fails if it does not become so."""
        deadline = time.monotonic() + ANSWER_S
        while not self._is_true(expression):
            assert time.monotonic() < deadline, f"{expression} did not become true"
            time.sleep(0.1)

    def _is_true(self, expression: str) -> bool:
        try:
            return bool(self.ask(expression))
        except Navigated:
            return False

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """The page, or what the window shows of it, as the file's suffix says: png or webp."""
        kind = path.suffix[1:]
        answer = self.send("Page.captureScreenshot", format=kind, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


class _Browser:
    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers = to, answers
        self._read = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "navigated" in answer.get("error", {}).get("message", ""):
            raise Navigated(method)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._answers, 1 << 16)
            assert piece, "the browser has gone"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A page of a browser whose profile is in `folder`."""
    chromium = program()
    assert chromium is not None
    commands, to = os.pipe()
    answers, back = os.pipe()
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    flags.append("--disable-dev-shm-usage")
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # which it refuses to do without as root
    process = subprocess.Popen(
        # The protocol's pipes are file descriptors 3 and 4.
        ["bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{back}', chromium, *flags,
         "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"],
        pass_fds=(commands, back),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands)
    os.close(back)
    browser = _Browser(to, answers)
    try:
        target = browser.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        yield Page(browser, browser.send("Target.attachToTarget", attach)["sessionId"])
    finally:
        with suppress(OSError, AssertionError):  # it may be gone already
            browser.send("Browser.close", {})
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to)
        os.close(answers)
