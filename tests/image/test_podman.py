"""The same commands with podman in the place of docker: built by repo2docker, tried, pushed, and run in again."""

import re
import urllib.request

import pytest
from clone import Project, ended, pushed, refused
from podman import Podman
from workshop import say

pytestmark = [pytest.mark.podman, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def podman(project):
    with Podman(project.workshop) as found:
        yield found


@pytest.fixture(scope="module")
def mine(project, podman):
    return Project(project.workshop, "by-podman")


def build(mine, podman, base="localhost/standin-base", fine=True):
    return mine.build("--engine", "podman", config=mine.workshop.config(base=base), variables=podman.variables, fine=fine)


def test_built(mine, podman):
    """Its parts are counted as docker's are; the second time nothing is carried out."""
    mine.back()
    build(mine, podman)
    first = mine.built()
    assert {part["part"] for part in first["steps"]} == {"base", "environment", "content"} and re.fullmatch("sha256:[0-9a-f]{64}", first["id"])
    build(mine, podman)
    assert mine.built()["id"] == first["id"] and mine.carried_out() == {"base": 0, "environment": 0, "content": 0}


def test_tried_from_inside(mine, podman):
    said = mine.image("test", "--engine", "podman", variables=podman.variables).stdout
    assert said.count("  yes  ") == 8 and "  NO " not in said


def test_the_digest_is_that_of_the_registry(mine, podman):
    """Podman packs the layers when it pushes them, so its own image has another digest."""
    mine.image("push", "--engine", "podman", "--name", mine.name, variables=podman.variables)
    written = pushed(mine.folder)
    host, _, name = written["name"].partition("/")
    asked = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{written['tag']}", method="HEAD", headers={"Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60) as answer:
        assert answer.headers["Docker-Content-Digest"] == written["digest"]
    assert written["digest"] not in podman("image", "inspect", mine.built()["reference"], "--format", "{{.Digest}}")
    say(f"pushed {written['digest']}")


def test_a_run_again_in_its_image(mine, podman):
    """The image is pulled by its digest, and the numbers are the same."""
    code, said, noted = mine.run_again_in(pushed(mine.folder), podman.variables)
    assert code == 0 and "ingest: identical, 100 %" in said and "it ran again in the image that the recorded run was made in" in said, said + noted


def test_bad_input(mine, podman):
    """A base image that is not there, and a postBuild that fails: one sentence, as from docker."""
    mine.back()
    refused(ended(build(mine, podman, base="127.0.0.1:9/nowhere:none", fine=False)), "the base image cannot be had", "127.0.0.1:9", "build.log")
    (mine.folder / "setup.py").write_text("import sys; sys.exit('the instrument is not calibrated')\n")
    mine.commit("fails")
    refused(ended(build(mine, podman, fine=False)), "binder/postBuild fails", "the instrument is not calibrated", "build.log")
