"""A copy of this repository in which images are built, and how the command line is called in it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from workshop import Workshop, run, say

ROOT = Path(__file__).parents[2]
AUTHOR = {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}


class Project:
    """The copy; the same files give the same commit, so that a second time everything is there."""

    def __init__(self, workshop: Workshop, folder: str = "project"):
        self.workshop = workshop
        self.folder = workshop.folder / folder
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
        names = sorted(name for name in filter(None, listed) if (ROOT / name).is_file() and not name.startswith("tests/image/"))  # else an edited test would make another image
        for entry in self.folder.iterdir() if self.folder.exists() else ():
            if entry.name != "runs":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.folder / name)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("remote", "add", "origin", "https://github.com/someone/stars.git")
        self.commit("all")
        self.first = self.git("rev-parse", "HEAD")
        text = (self.folder / "binder/environment.yml").read_text()
        self.python = re.search(r"python=(\S+)", text)[1]
        self.pins = dict(re.findall(r"- ([\w.-]+)==(\S+)", text)) | {"torch": re.search(r"pytorch-cpu=(\S+)", text)[1]}
        self.name = f"{workshop.registry}/someone/{'stars' if folder == 'project' else folder}"
        say(f"{folder}: {len(names)} files, commit {self.first[:12]}")

    def git(self, *words: str) -> str:
        return run("git", *words, cwd=self.folder, env={**self.workshop.variables, **AUTHOR}).strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def back(self) -> None:
        """Return to the first commit, in the tree as well."""
        self.git("reset", "--quiet", "--hard", self.first)
        self.git("clean", "--quiet", "--force", "-d")

    def image(self, *words: str, fine: bool = True, variables: dict | None = None) -> subprocess.CompletedProcess:
        """Call `mlops-nb image`, as a process; print what it prints."""
        say(f"$ mlops-nb image {' '.join(map(str, words))}")
        done = subprocess.run([sys.executable, "-m", "mlops_nb", "image", *map(str, words)], cwd=self.folder, env=variables or self.workshop.variables, capture_output=True, text=True)
        for line in (done.stdout + done.stderr).splitlines():
            say(f"    {line}")
        assert not fine or done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def build(self, *words: str, config: Path | None = None, **options) -> subprocess.CompletedProcess:
        return self.image("build", "--name", self.name, "--config", config or self.workshop.config(), *words, **options)

    def built(self) -> dict:
        """Return what is known of the image that was built last."""
        file = max((self.folder / "runs/images").glob("*/built.json"), key=lambda file: file.stat().st_mtime_ns)
        return json.loads(file.read_text())

    def run_again_in(self, image: dict, variables: dict) -> tuple[int, str, str]:
        """Run a step in a pushed image, and reproduce that run with `--in-image`; return the exit code of that, and what it printed on both streams."""
        calls = "import sys; from mlops_nb.engine import find_engine; from mlops_nb.inside import run_inside; sys.exit(run_inside(find_engine(), sys.argv[1], sys.argv[2:]))"
        run(sys.executable, "-c", calls, f"{image['name']}@{image['digest']}", "run", "nbs/pipelines/variables/10_ingest.ipynb", "--force", cwd=self.folder, env=variables)
        done = subprocess.run([sys.executable, "-m", "mlops_nb", "reproduce", "ingest", "--in-image"], cwd=self.folder, env=variables, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def carried_out(self) -> dict[str, int]:
        """Return how many steps of each part of the last build were carried out."""
        steps = self.built()["steps"]
        return {part: sum(not step["cached"] for step in steps if step["part"] == part) for part in ("base", "environment", "content")}


def pushed(folder: Path) -> dict:
    """Return what image.json says in a copy."""
    return json.loads((folder / "image.json").read_text())


def ended(done: subprocess.CompletedProcess) -> tuple[int, str]:
    """Return the exit code, and what was said of it."""
    return done.returncode, done.stderr.strip()


def refused(end: tuple[int, str], *words: str, code: int = 1) -> str:
    """See that it ended with one sentence, with all these words and that exit code; return the sentence."""
    returned, text = end
    assert returned == code and len(text.splitlines()) == 1 and text.startswith("mlops-nb: "), text
    assert all(word in text for word in words), text
    return text
