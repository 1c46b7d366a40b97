"""The folder of the container tests, and what is started in it for all of them."""

import os
import time
from pathlib import Path

import pytest
from beside import Beside
from clone import ROOT, Project
from workshop import Workshop, say, why_not

FOLDER = Path(os.environ.get("IMAGE_TESTS") or ROOT / "build/image")


@pytest.fixture(scope="session")
def workshop():
    """The engine and the registry. Where none can be started, nothing here is proven, and the log says so."""
    reason = why_not()
    if reason:
        pytest.skip(f"NO IMAGE WAS BUILT OR TRIED: {reason}")
    began = time.monotonic()
    found = Workshop(FOLDER)
    try:
        found.unpack()
        found.start_engine()
        found.registry = found.start_registry()
        yield found
    finally:
        found.close()
        ends = time.monotonic() + 20  # what the engine started ends a moment after it
        while (left := found.left_behind()) and time.monotonic() < ends:
            time.sleep(0.2)
        say(f"stopped after {time.monotonic() - began:.0f} s; left behind: {', '.join(left) or 'nothing'}")
        assert not left


@pytest.fixture(scope="session")
def project(workshop):
    """A copy of this repository as it lies here, committed, and the base image for its Python and torch."""
    found = Project(workshop)
    found.base = workshop.make_base(found.pins["torch"], found.python)
    return found


@pytest.fixture(scope="session")
def beside(project):
    found = Beside(Project(project.workshop, "beside"))
    try:
        yield found
    finally:
        found.close()
