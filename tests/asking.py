"""A kernel behind a Jupyter server, asked as JupyterLab's page asks it."""

import json
import uuid
from collections.abc import Callable

from websocket import WebSocket  # websocket-client, which jupyter_server needs


def execute(channels: WebSocket, code: str, busy: Callable[[], None] = lambda: None) -> tuple[str, str]:
    """Execute code through the server's websocket; return what it printed, an error included, and the status of the reply. `busy` is called when it prints."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "s", "username": "", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
    channels.send(json.dumps({"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}))
    printed, status, idle = "", None, False
    while True:
        message = json.loads(channels.recv())
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if message["msg_type"] == "stream":
            printed += message["content"]["text"]
            busy()
        elif message["msg_type"] == "error":
            printed += "\n".join(message["content"]["traceback"])
        elif message["msg_type"] == "execute_reply":
            status = message["content"]["status"]
        elif message["msg_type"] == "status":
            idle = message["content"]["execution_state"] == "idle"
        if status and idle:  # they come on two channels, in either order
            return printed, status
