"""The peers that want other packages than we do, each in an environment of its own; made once, in a cache folder."""

import os
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path

from measure import Wrong

PEERS = {"dvc": "dvc==3.67.1", "snakemake": "snakemake==9.27.1", "ploomber": "ploomber==0.23.3"}
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlops-nb-benchmarks"


def peer(
    name: str,  # of PEERS; also its command
) -> str:
    """Return the path of its command, whether it is installed or not."""
    return str(_environment(name) / "bin" / name)


def install_peers(
    *names: str,  # of PEERS
) -> None:
    """Install what is not installed yet, with its modules compiled, as pip does. Raises `Wrong` where that fails."""
    for name in names:
        requirement = PEERS[name]
        folder = _environment(name)
        if (folder / "installed").exists():
            continue
        venv.create(folder, with_pip=True, clear=True)
        print(f"installing {requirement} into {folder}", file=sys.stderr, flush=True)
        done = subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", requirement], capture_output=True, text=True)
        if done.returncode:
            raise Wrong(f"{requirement} cannot be installed into {folder}: {done.stderr[-1000:]}")
        (folder / "installed").touch()


def peer_versions() -> str:
    """Return name, version and number of packages of each peer, for the report."""
    found = []
    for name, requirement in PEERS.items():
        packages = list(distributions(path=[str(path) for path in _environment(name).glob("lib/python*/site-packages")]))
        found.append(f"{requirement.replace('==', ' ')} ({len(packages)} packages)" if packages else f"{name} not installed")
    return ", ".join(found)


def _environment(name: str) -> Path:
    return FOLDER / f"{PEERS[name].replace('==', '-')}-py{sys.version_info[0]}{sys.version_info[1]}"
