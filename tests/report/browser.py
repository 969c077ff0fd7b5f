"""Headless Chromium through its DevTools protocol over a pair of pipes, with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
# the browser reads commands from descriptor 3 and writes answers to 4
START = """
import os, sys
read, write, *command = sys.argv[1:]
os.dup2(int(read), 3)
os.dup2(int(write), 4)
os.execvp(command[0], command)
"""


# seconds; the first start on a busy machine that has never read the program from its disk takes a minute and more
PATIENCE = 300
STARTS = 3


class BrowserError(RuntimeError):
    """The browser itself fails, not the page."""


class Page:
    """One tab. ``errors`` has exceptions and console errors, ``requests`` the addresses that were loaded."""

    def __init__(self, send: int, receive: int) -> None:
        self._send = send
        self._receive = receive
        self._buffer = b""
        self._calls = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The result of a protocol method; events that arrive meanwhile are kept."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            answered, _, _ = select.select([self._receive], [], [], PATIENCE)
            if not answered:
                raise BrowserError(f"chromium has not answered for {PATIENCE} s")
            chunk = os.read(self._receive, 1 << 20)
            if not chunk:
                raise BrowserError("chromium went away")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message

    def open(self, file: Path, width: int = 1280, height: int = 900, **media: str) -> None:
        """Show ``file`` in such a window and wait for its charts; ``media`` are features, say a scheme."""
        self.errors, self.requests = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.call("Page.navigate", url=file.as_uri())
        ready = "location.href !== 'about:blank' && document.readyState === 'complete'"
        self.wait(f"{ready} && [...document.querySelectorAll('.chart')].every(c => c.firstChild)")
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        """Until the JavaScript ``condition`` holds."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > until:
                raise TimeoutError(f"{condition} did not come true; errors of the page: {self.errors}")
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def hover(self, x: float, y: float) -> None:
        """Move the mouse there, in pixels of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """A click of the left button there."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the left button at ``start``, move to ``end``, release it."""
        for kind, (x, y) in (
            ("mouseMoved", start),
            ("mousePressed", start),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key, by its DOM name."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        image = self.call(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "x": 0, "y": 0, "scale": 1}
        )
        file.write_bytes(base64.b64decode(image["data"]))


@contextmanager
def chromium(executable: str) -> Iterator[Page]:
    """A browser with an empty profile, closed at the end; one that dies as it starts is started again."""
    for start in range(1, STARTS + 1):
        with ExitStack() as stack:
            profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            log = profile / "stderr"
            send, receive = stack.enter_context(_process(executable, profile, log))
            try:
                page = Page(send, receive)
            except (BrowserError, BrokenPipeError) as error:
                if start < STARTS:
                    continue
                words = log.read_text(errors="replace")[-2000:]
                raise BrowserError(f"{executable} did not start, {STARTS} times: {error}\n{words}") from error
            yield page
            return


@contextmanager
def _process(executable: str, profile: Path, log: Path) -> Iterator[tuple[int, int]]:
    """The browser's process; gives the ends of the pipes to send commands to it and to receive its answers."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(to_read), str(from_write), executable, *FLAGS,
             f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        yield to_write, from_read
    finally:
        os.close(to_write)
        os.close(from_read)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
