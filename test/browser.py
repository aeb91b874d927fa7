"""A headless Chromium over the WebDriver protocol, which is plain HTTP and JSON."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

FLAGS = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run'),
    *('--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'),
)


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The driver is on this machine, whatever proxy the environment names."""


class Browser:
    """One open page."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of `width` × `height` CSS pixels."""
        self._cdp('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self._cdp('Emulation.setEmulatedMedia', features=[scheme])
        self._post('url', url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self._post('execute/sync', script=script, args=[])

    def console(self) -> list[str]:
        """Errors and warnings since the last call: uncaught exceptions, refused scripts, failed loads."""
        return [f'{entry["level"]}: {entry["message"]}' for entry in self._post('se/log', type='browser')]

    def screenshot(self, path: Path) -> None:
        """The whole page, from top to bottom."""
        height = self.run('return document.documentElement.scrollHeight')
        width = self.run('return innerWidth')
        self._cdp('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        picture = self._cdp('Page.captureScreenshot', format='png')
        path.write_bytes(base64.b64decode(picture['data']))

    def _cdp(self, command: str, **parameters: Any) -> Any:
        return self._post('goog/cdp/execute', cmd=command, params=parameters)

    def _post(self, command: str, **body: Any) -> Any:
        return post(f'{self._session}/{command}', body)


def post(address: str, body: dict[str, Any]) -> Any:
    """What the driver answers; a refusal of it is an AssertionError that says why."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {'Content-Type': 'application/json'})
    try:
        with DIRECT.open(request, timeout=120) as answer:
            return json.load(answer)['value']
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)['value']['message']) from error


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of our own with a fresh profile; skips where there is none, fails where CI=true."""
    driver = shutil.which('chromedriver')
    binary = shutil.which('chromium') or shutil.which('google-chrome')
    if not driver or not binary:
        reason = 'no chromium and chromedriver: apt-get install chromium chromium-driver'
        if os.environ.get('CI') == 'true':
            pytest.fail(reason)
        pytest.skip(reason)
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = Path(profile, 'driver.log')
        with log.open('w') as stream, subprocess.Popen([driver, '--port=0'], stdout=stream, stderr=stream) as process:
            try:
                base = f'http://127.0.0.1:{_port(log, process)}/session'
                options = {'binary': binary, 'args': [*FLAGS, f'--user-data-dir={profile}/profile']}
                wanted = {'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}
                session = f'{base}/{post(base, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]}'
                try:
                    yield Browser(session)
                finally:
                    request = urllib.request.Request(session, method='DELETE')
                    DIRECT.open(request, timeout=30).close()
            finally:
                process.terminate()


def _port(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The port that the driver chose, as it says when it is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r'successfully on port (\d+)', log.read_text()):
            return found[1]
        time.sleep(0.05)
    pytest.fail(f'chromedriver does not start:\n{log.read_text()}')
