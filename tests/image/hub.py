"""A JupyterHub of one's own, with DockerSpawner: the half of Binder that follows the build."""

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from asking import execute
from websocket import create_connection
from workshop import Workshop, free_port, run, say

PINS = Path(__file__).parent / "hub.txt"
PROXY = "configurable-http-proxy@5.3.0"


def install(workshop: Workshop) -> None:
    """Install JupyterHub, DockerSpawner and the proxy, once."""
    folder = workshop.folder / "hub"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == PINS.read_text() + PROXY:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say("hub: installing JupyterHub, DockerSpawner and their proxy into a folder of their own")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    run(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", folder / "venv/bin/python", "--requirement", PINS)
    assert shutil.which("npm"), "the proxy of JupyterHub comes from npm: apt install npm"
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, PROXY)
    stamp.write_text(PINS.read_text() + PROXY)


class Hub:
    """It runs in an environment of its own, in the folder of the tests; its proxy comes from npm."""

    def __init__(self, workshop: Workshop, image: str):
        self.workshop, self.image = workshop, image
        self.folder = workshop.folder / "hub"
        self.token = secrets.token_hex(20)
        self.port, self.server_port = free_port(), free_port()
        self.process = None

    def __enter__(self) -> "Hub":
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        (state / "jupyterhub_config.py").write_text(f"""
from dockerspawner import DockerSpawner


class OnThisMachine(DockerSpawner):
    \"\"\"The engine has no bridge: a server listens on the loopback, at a port that is given.\"\"\"

    async def get_ip_and_port(self):
        return "127.0.0.1", {self.server_port}


c.JupyterHub.spawner_class = OnThisMachine
c.JupyterHub.bind_url = "http://127.0.0.1:{self.port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{free_port()}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "binder", "api_token": {self.token!r}}}]
c.JupyterHub.load_roles = [{{"name": "binder", "services": ["binder"], "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"]}}]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{free_port()}"
c.OnThisMachine.image = {self.image!r}
c.OnThisMachine.pull_policy = "Never"
c.OnThisMachine.use_internal_ip = True
c.OnThisMachine.network_name = "host"
c.OnThisMachine.port = {self.server_port}
c.OnThisMachine.cmd = ["jupyterhub-singleuser"]
c.OnThisMachine.args = ["--ip=127.0.0.1", "--port={self.server_port}"]
c.OnThisMachine.extra_host_config = {{"network_mode": "host"}}
c.OnThisMachine.remove = True
c.OnThisMachine.start_timeout = 120
c.OnThisMachine.http_timeout = 120
""")
        variables = {**self.workshop.variables, "PATH": f"{self.folder}/venv/bin:{self.folder}/node_modules/.bin:{self.workshop.variables['PATH']}", "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(20)}
        self.process = self.workshop.start(self.folder / "venv/bin/jupyterhub", "--config", state / "jupyterhub_config.py", log="hub.log", variables=variables, cwd=state)
        return self

    def wait(self) -> None:
        """Wait until it answers."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                self.ask("GET", "/hub/api/")
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.workshop.folder / "logs/hub.log").read_text()[-4000:]

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"}, data=json.dumps(body).encode() if body is not None else None)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.strip().startswith(("{", "[")) else {}

    def launch(self, user: str) -> str:
        """Start the image for a user, and return the path of its server."""
        self.wait()
        self.ask("POST", f"/hub/api/users/{user}", {})
        self.ask("POST", f"/hub/api/users/{user}/server", {})
        for _ in range(1200):
            server = self.ask("GET", f"/hub/api/users/{user}")["servers"].get("", {})
            if server.get("ready"):
                return f"/user/{user}"
            assert server.get("pending"), self.log()
            time.sleep(0.1)
        raise AssertionError(self.log())

    def run_in(self, server: str, code: str) -> str:
        """Run code in a new kernel of a server, through the hub's proxy, and return what it prints."""
        kernel = self.ask("POST", f"{server}/api/kernels", {"name": "python3"})["id"]
        address = f"ws://127.0.0.1:{self.port}{server}/api/kernels/{kernel}/channels"
        channels = create_connection(address, header=[f"Authorization: token {self.token}"], timeout=120, http_no_proxy=["127.0.0.1"])
        try:
            return execute(channels, code)[0]
        finally:
            channels.close()

    def stop_server(self, user: str) -> None:
        self.ask("DELETE", f"/hub/api/users/{user}/server")
        for _ in range(300):
            if not self.ask("GET", f"/hub/api/users/{user}")["servers"]:
                return
            time.sleep(0.1)
        raise AssertionError("the server of the hub did not stop")

    def __exit__(self, *exception) -> None:
        self.workshop.stop(self.process)
        for name in subprocess.run(["docker", "ps", "--all", "--quiet", "--filter", "name=jupyter-"], env=self.workshop.variables, capture_output=True, text=True).stdout.split():
            subprocess.run(["docker", "rm", "--force", name], env=self.workshop.variables, capture_output=True)
