"""Podman as Debian 13 has it (that of Debian 12 is too old for repo2docker), with all that it keeps in the folder of the tests.

It sees a root of its own, in a namespace of mounts of its own: nothing is mounted that outlives it.
"""

import os
import shutil
import subprocess
import time

from workshop import Workshop, debian_sources, run, say

PACKAGES = ("podman", "conmon", "netavark", "catatonit", "ca-certificates")
HOLD = """set -e
mount --bind "$1" "$1"
for place in proc sys dev; do mount --rbind /$place "$1/$place"; done
for place in /tmp "$2"; do mkdir -p "$1$place"; mount --bind "$place" "$1$place"; done
mkdir -p "$1/old"
cd "$1"
pivot_root . old
exec chroot . /usr/bin/sleep infinity"""


class Podman:
    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self.folder = workshop.folder / "podman"
        self.root = self.folder / "root"
        path = ":".join(part for part in workshop.variables["PATH"].split(":") if not part.startswith(str(workshop.root)))  # without docker
        self.variables = {name: value for name, value in workshop.variables.items() if name not in ("DOCKER_HOST", "DOCKER_CONFIG", "LD_LIBRARY_PATH")} | {"PATH": f"{self.folder}/bin:{path}"}

    def __enter__(self) -> "Podman":
        if not (self.folder / "unpacked").exists():
            say(f"podman: unpacking {', '.join(PACKAGES)} of Debian 13")
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / "bin").mkdir(parents=True)
            (self.folder / "debian.sources").write_text(debian_sources().replace("bookworm", "trixie"))
            run(
                "perl", self.workshop.root / "usr/bin/mmdebstrap", "--mode=root", "--variant=apt", "--aptopt=Acquire::Languages \"none\"",
                f"--include={','.join(PACKAGES)}", "trixie", self.root, self.folder / "debian.sources", env=self.workshop.variables,
            )  # fmt: skip
            shutil.copy2(self.workshop.root / "usr/sbin/runc", self.root / "usr/bin/runc")  # crun does without the older control groups
            settings = self.root / "etc/containers"
            settings.mkdir(exist_ok=True)
            (settings / "storage.conf").write_text('[storage]\ndriver = "overlay"\ngraphroot = "/var/lib/containers/storage"\nrunroot = "/run/containers/storage"\n')
            (settings / "containers.conf").write_text('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n[containers]\nnetns = "host"\ndefault_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]\n')
            (self.folder / "unpacked").touch()
        (self.root / "etc/containers/registries.conf").write_text(f'[[registry]]\nlocation = "{self.workshop.registry}"\ninsecure = true\n')
        shutil.copy2("/etc/resolv.conf", self.root / "etc/resolv.conf")
        self.holder = self.workshop.start("unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD, "hold", self.root, self.workshop.folder, log="podman.log", variables=dict(os.environ))
        program = self.folder / "bin/podman"
        program.write_text(f'#!/bin/sh\nexport PODMAN_IGNORE_CGROUPSV1_WARNING=1\nexec nsenter --target {self.holder.pid} --mount --root --wd -- /usr/bin/podman "$@"\n')
        program.chmod(0o755)
        for _ in range(100):
            if subprocess.run(["podman", "info"], env=self.variables, capture_output=True).returncode == 0:
                break
            assert self.holder.poll() is None, (self.workshop.folder / "logs/podman.log").read_text()
            time.sleep(0.1)
        say(f"podman: {self('--version').strip()} answers")
        if self.workshop.base_id.removeprefix("sha256:") not in self("images", "--no-trunc", "--quiet"):
            archive = self.folder / "base.tar"
            self.workshop.docker("save", "--output", archive, "standin-base")
            self("load", "--input", archive)
            archive.unlink()
        return self

    def __call__(self, *words: str) -> str:
        return run("podman", *words, env=self.variables)

    def __exit__(self, *exception) -> None:
        self("rm", "--all", "--force")
        self.workshop.stop(self.holder)
