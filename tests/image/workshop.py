"""An engine, a registry and a base image, made from Debian's packages in one folder, started for the tests and stopped after them.

Nothing is installed: the packages are unpacked. What the engine keeps, its sockets and its processes belong to the folder. It needs Linux, root, apt and the
network; `why_not` says what is missing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("docker.io", "containerd", "runc", "tini", "docker-registry", "skopeo", "libgpgme11", "golang-github-containers-common", "golang-github-containers-image", "mmdebstrap", "fuse-overlayfs", "libfuse3-3")
BUILDX = "docker-buildx"  # Debian has it since trixie; it runs on bookworm too
INSIDE = ("ca-certificates", "git", "wget", "bzip2", "python3", "python3-venv", "locales")  # what repo2docker's own base image has as well
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
UV = "uv"


def say(text: str) -> None:
    thread = threading.current_thread()
    print(f"[{'image' if thread is threading.main_thread() else thread.name.partition('_')[0]}] {text}", flush=True)


def run(*words, **options):
    """Run a command; an error shows what it printed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, errors="replace", **options)
    assert done.returncode == 0, f"{' '.join(map(str, words))[:300]}:\n{(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


def why_not() -> str | None:
    """Return why no engine can be started here; None where one can."""
    if sys.platform != "linux":
        return f"this is {sys.platform}, and an engine of containers needs Linux"
    if os.getuid() != 0:
        return "an engine is started as root, and this is not root"
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if "bookworm" not in release:
        return "the packages are those of Debian 12 (bookworm), and this is another system"
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return "there is no apt"
    folder = Path(tempfile.mkdtemp())
    try:
        probe = folder / "probe"
        probe.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", probe], capture_output=True, text=True)
        if mounted.returncode:
            return f"nothing can be mounted: {mounted.stderr.strip()}"
        subprocess.run(["umount", probe], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


class Workshop:
    """The folder, and what is started in it."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.root = self.folder / "root"  # of the unpacked packages
        self.sockets = Path(tempfile.mkdtemp(prefix="image-"))  # a socket's path is short
        self.processes: list[subprocess.Popen] = []
        self.base_id = ""
        self.before = {path: path.exists() for path in map(Path, ("/var/lib/docker", "/var/lib/containerd", "/run/docker", "/run/containerd", "/etc/docker", Path.home() / ".docker"))}
        for name in ("debs", "logs", "data"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.pids = self.folder / "pids"
        self.clear_away()
        self.variables = {
            **{name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "DOCKER_CONTEXT")},
            "PATH": f"{self.root}/usr/bin:{self.root}/usr/sbin:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{self.root}/usr/lib/x86_64-linux-gnu:{self.root}/usr/lib/aarch64-linux-gnu",
            "DOCKER_HOST": f"unix://{self.sockets}/docker.sock",
            "DOCKER_CONFIG": f"{self.folder}/client",
        }

    def clear_away(self) -> None:
        """End what an earlier time started and could not stop, because it was killed: two engines must not share one folder."""
        for line in self.pids.read_text().splitlines() if self.pids.exists() else ():
            with contextlib.suppress(OSError, ValueError):
                if str(self.folder) in Path(f"/proc/{int(line)}/cmdline").read_text():
                    say(f"ending process {line}, which was left by an earlier time")
                    os.kill(int(line), signal.SIGTERM)
                    for _ in range(100):
                        os.kill(int(line), 0)
                        time.sleep(0.1)
        self.pids.write_text("")

    # What is unpacked

    def unpack(self) -> None:
        """Fetch the packages and unpack them, once."""
        stamp = self.folder / "unpacked"
        if stamp.exists() and stamp.read_text() == repr(PACKAGES):
            say("packages: unpacked before")
            return
        say(f"packages: fetching and unpacking {', '.join(PACKAGES)}, {BUILDX}")
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        run("apt-get", "download", *PACKAGES, cwd=self.folder / "debs")
        lists = self.folder / "trixie"
        (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
        (lists / "trixie.sources").write_text(debian_sources().replace("bookworm", "trixie"))
        apart = ["-o", f"Dir::Etc::SourceList={lists}/trixie.sources", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::State::lists={lists}/lists", "-o", f"Dir::Cache={lists}"]
        run("apt-get", "update", "-qq", *apart)
        run("apt-get", "download", BUILDX, *apart, cwd=self.folder / "debs")
        shutil.rmtree(lists)
        for package in sorted((self.folder / "debs").glob("*.deb")):
            run("dpkg", "-x", package, self.root)
        plugins = self.folder / "client/cli-plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        (plugins / BUILDX).unlink(missing_ok=True)
        (plugins / BUILDX).symlink_to(self.root / "usr/libexec/docker/cli-plugins" / BUILDX)
        stamp.write_text(repr(PACKAGES))

    # What is started

    def start(self, *words, log: str, variables: dict | None = None, cwd: Path | None = None) -> subprocess.Popen:
        with (self.folder / "logs" / log).open("w") as file:
            process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=variables or self.variables, start_new_session=True, cwd=cwd)
        self.processes.append(process)
        with self.pids.open("a") as file:
            file.write(f"{process.pid}\n")
        return process

    def start_engine(self, data: Path | None = None, name: str = "docker", drivers=("overlay2", "fuse-overlayfs", "vfs")) -> tuple[subprocess.Popen, dict]:
        """Start dockerd with all that it has in this folder; return it, and the variables with which it is spoken to."""
        variables = {**self.variables, "DOCKER_HOST": f"unix://{self.sockets}/{name}.sock"}
        config = self.folder / f"{name}.json"
        config.write_text("{}")
        for driver in drivers:
            process = self.start(
                "dockerd", "--config-file", config, "--data-root", data or self.folder / "data", "--exec-root", self.sockets / f"{name}-exec", "--pidfile", self.sockets / f"{name}.pid",
                "--host", variables["DOCKER_HOST"], "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--default-ulimit", "nofile=20000:20000", "--storage-driver", driver, log=f"{name}.log",
            )  # fmt: skip
            for _ in range(300):
                if process.poll() is not None:
                    break
                if subprocess.run(["docker", "info"], env=variables, capture_output=True).returncode == 0:
                    say(f"engine: dockerd answers, with {driver}")
                    return process, variables
                time.sleep(0.2)
            self.stop(process)
        raise AssertionError(f"dockerd does not start:\n{(self.folder / 'logs' / f'{name}.log').read_text()[-3000:]}")

    def start_registry(self, readonly: bool = False) -> str:
        """Start a registry on the loopback; return host:port."""
        port = free_port(5055 + readonly)
        config = self.folder / f"registry-{port}.json"
        maintenance = {"readonly": {"enabled": True}} if readonly else {}
        config.write_text(json.dumps({"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(self.folder / f"registry-{readonly}")}, "maintenance": maintenance}, "http": {"addr": f"127.0.0.1:{port}"}}))
        self.start("docker-registry", "serve", config, log=f"registry-{port}.log")
        for _ in range(100):
            with contextlib.suppress(OSError):
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/v2/", timeout=5)
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"the registry does not answer at 127.0.0.1:{port}; its log is in {self.folder / 'logs'}")
        say(f"registry: answers at 127.0.0.1:{port}")
        return f"127.0.0.1:{port}"

    def docker(self, *words, variables: dict | None = None) -> str:
        return run("docker", *words, env=variables or self.variables)

    # The base image

    def make_base(self, torch: str, python: str) -> str:
        """Make Debian, with Python, uv and torch's wheel for processors; return the name of the image."""
        place = self.folder / "base"
        wheels = place / "wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        if not list(wheels.glob(f"torch-{torch}*")):
            say(f"base: fetching torch {torch} with pip, as this machine is told to")
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, f"torch=={torch}")
        uv = Path(sys.executable).parent / UV
        shutil.copy2(uv, place / UV)
        debian = f"standin-debian:{hashlib.sha256((repr(INSIDE) + debian_sources()).encode()).hexdigest()[:12]}"
        if subprocess.run(["docker", "image", "inspect", debian], env=self.variables, capture_output=True).returncode:
            archive = self.folder / "debian.tar"
            say("base: making Debian with mmdebstrap, from this machine's sources and with its certificates")
            (self.folder / "debian.sources").write_text(debian_sources())
            run(
                "perl", self.root / "usr/bin/mmdebstrap", "--mode=root", "--variant=apt", "--aptopt=Acquire::Languages \"none\"", f"--include={','.join(INSIDE)}",
                f"--customize-hook=upload {CERTIFICATES} {CERTIFICATES}", "bookworm", archive, self.folder / "debian.sources", env=self.variables,
            )  # fmt: skip
            self.docker("import", archive, debian)
            archive.unlink()
        (place / "Dockerfile").write_text(
            f"FROM {debian}\n"
            f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES} REQUESTS_CA_BUNDLE={CERTIFICATES}\n"
            f"COPY {UV} /opt/standin/{UV}\nCOPY wheels /opt/standin/wheels\n"
        )
        self.docker("buildx", "build", "--load", "--tag", "standin-base", place)
        self.base_id, size = self.docker("image", "inspect", "--format", "{{.Id}} {{.Size}}", "standin-base").split()
        say(f"base: {self.base_id}, {int(size) / 1e6:,.0f} MB")
        return "standin-base"

    def config(self, base: str = "standin-base", extra: tuple[str, ...] = ()) -> Path:
        """Write a configuration of repo2docker that puts the stand-in into the place of conda, and return its path."""
        text = (
            f"import sys\nsys.path.insert(0, {str(HERE / 'standin')!r})\nfrom buildpack import StandInBuildPack\n"
            f"c.Repo2Docker.buildpacks = [StandInBuildPack]\nc.Repo2Docker.base_image = {base!r}\n"
            f"c.DockerEngine.extra_buildx_build_args = {['--network', 'host', *extra]!r}\n"
        )
        file = self.folder / f"repo2docker-{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
        file.write_text(text)
        return file

    # The end

    def stop(self, process: subprocess.Popen) -> None:
        """End a process that was started here, and what it started."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
        if process in self.processes:
            self.processes.remove(process)

    def close(self) -> None:
        """Stop everything that was started, the last first."""
        for name in subprocess.run(["docker", "ps", "--all", "--quiet"], env=self.variables, capture_output=True, text=True).stdout.split():
            subprocess.run(["docker", "rm", "--force", name], env=self.variables, capture_output=True)
        for process in list(reversed(self.processes)):
            self.stop(process)
        for line in Path("/proc/mounts").read_text().splitlines():
            mounted = line.split()[1]
            if mounted.startswith((f"{self.folder}/", f"{self.sockets}/")):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True)
        shutil.rmtree(self.sockets, ignore_errors=True)
        for path, existed in self.before.items():
            if not existed and path.is_dir() and not any(file.is_file() for file in path.rglob("*")):
                shutil.rmtree(path, ignore_errors=True)

    def left_behind(self) -> list[str]:
        """Return what is there after `close` and was not before: processes, mounts, folders."""
        found = []
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = status.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (str(self.root) in words or str(self.sockets) in words) and int(status.parent.name) != os.getpid():
                    found.append(f"process {status.parent.name}: {words[:100]}")
        found += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line or str(self.sockets) in line]
        return found + [f"{path} is new" for path, existed in self.before.items() if path.exists() and not existed]


def debian_sources() -> str:
    """Return where this machine takes Debian from, in the form deb822."""
    file = Path("/etc/apt/sources.list.d/debian.sources")
    if file.exists():
        return "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#")) + "\n"
    return "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"


def free_port(wanted: int = 0) -> int:
    """Return this port where nobody uses it, else one that is free."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            return int(one.getsockname()[1])
    raise AssertionError("no port is free")


if __name__ == "__main__":  # for .ci/run: the reason, and whether there is one
    reason = why_not()
    print(reason or "an engine can be started")
    sys.exit(reason is not None)
