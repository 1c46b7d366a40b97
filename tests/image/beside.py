"""What is tried beside the rest: one after the other, in a thread and a copy of the project of its own."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clone import Project
from workshop import say

HERE = Path(__file__).parent


class Beside:
    """It takes functions of a project, each of which returns what JSON can hold, and gives what they return."""

    def __init__(self, project: Project):
        self.project = project
        self.futures: dict[str, Future] = {}
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self.memory = project.workshop.folder / "beside.json"
        files = sorted(path for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
        asked = [project.first, project.workshop.base_id, [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]]
        self.key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        known = json.loads(self.memory.read_text()) if self.memory.exists() else {}
        self.known = known.get("found", {}) if known.get("key") == self.key else {}

    def begin(self, *functions: Callable[[Project], Any]) -> None:
        """Let these be tried, in this order."""
        for function in functions:
            if function.__name__ not in self.futures:
                self.futures[function.__name__] = self.pool.submit(self._try, function)

    def __call__(self, function: Callable[[Project], Any]) -> Any:
        """Wait for what it returns, or for its error."""
        self.begin(function)
        return self.futures[function.__name__].result()

    def remember(self, function: Callable[[Project], Any]) -> None:
        """What it returned is as it should be, and need not be tried again with the same commit, base image and tests."""
        self.known[function.__name__] = self(function)
        self.memory.write_text(json.dumps({"key": self.key, "found": self.known}))

    def _try(self, function: Callable[[Project], Any]) -> Any:
        name = function.__name__
        say(f"== {name.replace('_', ' ')}")
        if name in self.known:
            say(f"    tried before, with the very same files: {self.known[name]}")
            return self.known[name]
        self.project.back()
        return function(self.project)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
