"""A network camera on this machine: MJPEG over HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class MjpegServer:
    """Sends `frames` pictures a connection, as a network camera does, and ends it."""

    def __init__(self, frames: int, port: int = 0) -> None:
        picture = cv2.imencode('.jpg', np.full((48, 64, 3), 128, np.uint8))[1].tobytes()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=frame')
                self.end_headers()
                for _ in range(frames):
                    time.sleep(0.01)
                    head = f'--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n'
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(head.encode() + picture + b'\r\n')

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(('127.0.0.1', port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.port}/stream.mjpg'

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
