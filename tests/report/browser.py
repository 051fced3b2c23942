"""A browser without a window, told what to do through the pipe of its DevTools protocol."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab of a browser; what it complains of is kept in ``complaints``, what it asks for in ``requests``."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 720) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        line = f"exec {BROWSER} {options} --user-data-dir={profile} 3<&{commands} 4>&{answers}"
        silent: Any = subprocess.DEVNULL
        self.process = subprocess.Popen(
            ["bash", "-c", line], pass_fds=(commands, answers), stdout=silent, stderr=silent
        )
        os.close(commands)
        os.close(answers)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._left, self._number, self._session = b"", 0, None
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")
        self.resize(width, height)

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            self._note(found)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def resize(self, width: int, height: int) -> None:
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, page: Path, seconds: float = 60) -> float:
        """Opens a page from disk; the milliseconds, by its own clock, until all its figures were drawn."""
        self.tell("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + seconds
        while not (ready := self.ask("document.documentElement?.dataset.ready || null")):
            assert time.monotonic() < end, self.complaints
            time.sleep(0.1)
        return float(ready)

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key, pressed and let go."""
        code = {"Tab": 9, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def move(self, x: float, y: float) -> None:
        """The pointer to a place of the window."""
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)
        self.process.terminate()
        self.process.wait(20)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._left += more
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, found: dict[str, Any]) -> None:
        what, of = found.get("method"), found.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.complaints.append(str(of["exceptionDetails"].get("exception", of)))
        elif what == "Runtime.consoleAPICalled" and of["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([argument.get("value") for argument in of["args"]]))
        elif what == "Log.entryAdded" and of["entry"]["level"] in ("error", "warning"):
            self.complaints.append(of["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(of["request"]["url"])
