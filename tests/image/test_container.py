"""The image, for real: built by repo2docker, tried, pushed, pulled, opened in a browser, launched by a hub; and what happens when something is wrong.

What this does not show: that conda-forge resolves `binder/environment.yml`, since its servers need not be in reach: `standin/` lays the environment instead. Nor that
the packages of `apt.txt` are in Ubuntu: the base image is Debian. `tests/test_image.py` holds the Dockerfile of the real way against a snapshot.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from workshop import free_port, run, say

pytestmark = [pytest.mark.image, pytest.mark.timeout(1200)]
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def step(text: str) -> None:
    say(f"== {text}")


def test_built(project):
    """repo2docker builds the commit. The same commit again is the same image, to the last byte."""
    step("build")
    project.back()
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    first = project.built()
    assert {part["part"] for part in first["steps"]} == {"base", "environment", "content"} and first["commit"] == project.first
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    assert project.built()["id"] == first["id"] and project.carried_out() == {"base": 0, "environment": 0, "content": 0}
    labels = json.loads(project.workshop.docker("image", "inspect", first["reference"]))[0]["Config"]["Labels"]
    assert labels["mlops_nb.commit"] == project.first and labels["mlops_nb.environment"] == first["environment"]
    assert labels["org.opencontainers.image.source"] == "https://github.com/someone/stars"


LISTING = """
import hashlib, json, os, sys
from importlib import metadata
files = {}
for folder, _, names in os.walk("/srv/conda"):
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            files[path] = hashlib.sha256(open(path, "rb").read()).hexdigest()
print(json.dumps({"packages": sorted(f"{one.name}=={one.version}" for one in metadata.distributions()), "files": files}))
"""
EXPLAINED = (
    (r"\.pyc$", "compiled when it was installed, with the time of its source in it"),
    (r"/direct_url\.json$|/uv_cache\.json$|/RECORD$", "names the time or the place of an installation, or lists such a file"),
    (r"/share/mlops-nb/image\.json$", "names the commit"),
    (r"/share/jupyter/kernels/", "a kernelspec"),
)


def test_the_same_commit_gives_the_same_environment(project):
    """Built again without any cache: the same packages, and the same files but for those that are explained."""
    step("the same commit, built twice")
    project.back()
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    first = project.built()
    memory = project.workshop.folder / "twice.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    if known.get("id") != first["id"]:
        project.image("build", "--name", f"{project.name}-again", "--config", project.workshop.config(extra=("--no-cache",)))
        again = project.built()
        assert project.carried_out()["environment"] == len([one for one in again["steps"] if one["part"] == "environment"])
        sides = [json.loads(run("docker", "run", "--rm", "--interactive", "--network", "none", one, "python", "-", env=project.workshop.variables, input=LISTING).splitlines()[-1]) for one in (first["id"], again["id"])]
        different = sorted(name for name in sides[0]["files"].keys() | sides[1]["files"].keys() if sides[0]["files"].get(name) != sides[1]["files"].get(name))
        memory.write_text(json.dumps({"id": again["id"], "packages": [side["packages"] for side in sides], "files": len(sides[0]["files"]), "different": different}))
        project.workshop.docker("rmi", "--force", first["reference"], again["reference"])
        project.image("build", "--name", project.name, "--config", project.workshop.config())
        assert project.built()["id"] == again["id"]  # which is now in the cache, and is what is tried and pushed
    else:
        say("compared before, for this image")
    found = json.loads(memory.read_text())
    assert found["packages"][0] == found["packages"][1]
    unexplained = [name for name in found["different"] if not any(re.search(pattern, name) for pattern, _ in EXPLAINED)]
    for pattern, reason in EXPLAINED:
        count = sum(bool(re.search(pattern, name)) for name in found["different"])
        if count:
            say(f"{count} files differ: {reason}")
    say(f"{len(found['packages'][0])} packages are the same; of {found['files']} files {len(found['different'])} differ, {len(unexplained)} without an explanation")
    assert not unexplained, unexplained[:20]


def test_tried_from_inside(project):
    """Versions, imports, published results, the pipeline, JupyterLab: all hold, in a container without a network."""
    step("test from inside")
    said = project.image("test").stdout
    assert said.count("  yes  ") == 8 and "  NO " not in said


def test_pushed_and_pulled_back_whole(project):
    """The registry's digest is that of what was pushed; what skopeo pulls has it, and every layer is what its digest says."""
    step("push, and pull back with skopeo")
    project.image("push", "--name", project.name)
    written = json.loads((project.folder / "image.json").read_text())
    assert written["tested"]["well"] and written["environment"] == project.built()["environment"]
    back = project.workshop.folder / "pulled"
    shutil.rmtree(back, ignore_errors=True)
    run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{written['name']}:{written['tag']}", f"dir:{back}", env=project.workshop.variables)
    manifest = (back / "manifest.json").read_bytes()
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == written["digest"]
    layers = json.loads(manifest)["layers"]
    for layer in [*layers, json.loads(manifest)["config"]]:
        name = layer["digest"].removeprefix("sha256:")
        with (back / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == name
        assert (back / name).stat().st_size == layer["size"]
    shutil.rmtree(back)
    say(f"pulled back {len(layers)} layers; {written['digest']}")
    bill = json.loads((project.folder / "image.cdx.json").read_text())
    names = {part["name"] for part in bill["components"]}
    assert {"numpy", "torch", "jupyterlab", "git"} <= names and len(bill["components"]) == written["bill"]["components"]
    verdict = written["vulnerabilities"]
    assert verdict["verdict"] != "none" and (verdict["verdict"] == "unknown") == bool(verdict["unknown"] and not verdict["found"])
    say(f"vulnerabilities: {verdict['verdict']} {verdict['why']}")


@pytest.fixture(scope="module")
def opened(project):
    """The pushed image, opened as a collaborator would open it: the address and the token."""
    notebook = "nbs/pipelines/variables/20_explore.ipynb"
    command = [sys.executable, "-m", "mlops_nb", "image", "launch", notebook, "--network", "host"]
    with subprocess.Popen(command, cwd=project.folder, env=project.workshop.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if "?token=" in line:
                break
        assert lines and "?token=" in lines[-1], lines
        yield lines[-1]
        process.send_signal(2)
        process.wait(60)
        assert process.returncode == 130


def test_opened_in_a_browser(project, opened):
    """Chromium signs in to JupyterLab with the token, and sees the notebook that was asked for."""
    step("launch, and sign in with Chromium")
    if BROWSER is None:
        pytest.skip("NO BROWSER: JupyterLab was not signed in to. Install one (Debian: apt install chromium).")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(opened.partition("?")[0])
        page.wait_for_url("**/login**", timeout=60_000)
        page.get_by_role("textbox").first.fill(opened.partition("token=")[2])
        page.get_by_role("button", name=re.compile("log in", re.I)).first.click()
        page.wait_for_selector(".jp-Notebook", timeout=90_000)
        assert "20_explore" in page.title() + page.content()
        browser.close()
    say(f"signed in at {opened.partition('?')[0]}, and the notebook is open")


def test_the_pipeline_through_papermill(project, opened):
    """Plain papermill runs the study's notebooks in the opened image, one after the other; a run of mlops-nb in it keeps its digest."""
    step("the study inside, through papermill")
    name = project.workshop.docker("ps", "--format", "{{.Names}}").split()[0]
    digest = json.loads((project.folder / "image.json").read_text())["digest"]
    templates = sorted(path.name for path in (project.folder / "nbs/pipelines/variables").glob("*.ipynb"))
    script = "set -e; cd nbs/pipelines/variables; mkdir -p /tmp/out; for one in " + " ".join(templates) + "; do options=; case $one in 30_*) options='-p stars_per_class 60';; 50_*) options='-p epochs 3';; 70_*) options='-p replicates 100';; esac; papermill --no-progress-bar $one /tmp/out/$one $options 2>/tmp/said || { cat /tmp/said; exit 1; }; done; ls /tmp/out | wc -l"
    memory = project.workshop.folder / f"papermill-{project.built()['id'][7:23]}"
    if not memory.exists():
        assert project.workshop.docker("exec", name, "bash", "-c", script).split()[-1] == str(len(templates))
        memory.touch()
        say(f"{len(templates)} notebooks ran through papermill")
    else:
        say(f"{len(templates)} notebooks ran through papermill before, in this very image")
    asked = "import glob; print([line for file in glob.glob('/proc/[0-9]*/environ') for line in open(file).read().split(chr(0)) if line.startswith('MLOPS_NB_IMAGE=')][0])"
    told = project.workshop.docker("exec", name, "python", "-c", asked).strip()
    shown = project.workshop.docker("exec", "--env", told, name, "bash", "-c", "mlops-nb run nbs/pipelines/variables/10_ingest.ipynb >/dev/null && mlops-nb show ingest")
    assert digest in told and digest[:19] in shown, shown
    say(f"a run in the image says {re.search('image.*', shown)[0].strip()}")


def test_launched_by_a_hub(project):
    """A JupyterHub with DockerSpawner starts the same image by its digest over its API; a notebook's kernel in it is told which image it is in."""
    step("JupyterHub with DockerSpawner")
    from hub import Hub

    written = json.loads((project.folder / "image.json").read_text())
    reference = f"{written['name']}@{written['digest']}"
    with Hub(project.workshop, reference) as hub:
        server = hub.launch("ada")
        answer = hub.run_in(server, "from mlops_nb.environment import image; print(image())")
        assert written["digest"] in answer and written["environment"] in answer, answer
        hub.stop_server("ada")
    say(f"the hub launched {reference[-71:][:26]}…, and a kernel in it said so")


def test_an_edited_notebook_costs_no_installation(project):
    """No step of the base or of the environment is carried out."""
    step("a notebook is edited")
    project.back()
    file = project.folder / "nbs/pipelines/variables/20_explore.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][0]["source"] = ["edited\n"]
    file.write_text(json.dumps(notebook))
    before = project.workshop.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", project.built()["reference"])
    project.commit("edited")
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    counted = project.carried_out()
    assert counted["base"] == counted["environment"] == 0
    layers = project.built()["layers"]
    same = sum(one == two for one, two in zip(json.loads(before), layers, strict=True))
    say(f"carried out: {counted}; {same} of {len(layers)} layers are the same")
    project.back()


def test_another_pin_costs_the_environment(project):
    """Each step of the environment is carried out, none of the base; what stands above the environment follows."""
    step("a pin is changed")
    project.back()
    lock = project.folder / "constraints.txt"
    other = "webcolors==25.10.0", "webcolors==24.11.1"
    assert other[0] in lock.read_text()
    lock.write_text(lock.read_text().replace(*other))
    assert project.image("prepare", "--check", fine=False).returncode == 1
    project.image("prepare")
    project.commit("another version")
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    steps = [one for one in project.built()["steps"] if one["part"] == "environment"]
    counted = project.carried_out()
    assert counted["base"] == 0 and counted["environment"] in (0, len(steps)), counted  # 0: this very change was built before
    inside = project.workshop.docker("run", "--rm", "--network", "none", project.built()["id"], "python", "-c", "from importlib.metadata import version; print(version('webcolors'))")
    assert inside.split()[-1] == "24.11.1"
    say(f"carried out: {counted}, of {len(steps)} steps of the environment")
    project.back()


# What goes wrong


def refused(project, done, *words, code=1):
    """One sentence with all these words, that exit code, and the log's place where there is one."""
    text = done.stderr.strip()
    assert done.returncode == code and len(text.splitlines()) == 1 and text.startswith("mlops-nb: "), text
    assert all(word in text for word in words), text
    return text


def broken(project, name, change):
    """Commit a change, and build it."""
    project.back()
    change(project.folder)
    project.commit(name)
    return project.image("build", "--name", project.name, "--config", project.workshop.config(), fine=False)


def test_no_engine(project):
    """Nothing answers at DOCKER_HOST; podman is not there."""
    step("bad input: no engine, no base image, no such version, a postBuild that fails, no certificates, a full disk, a registry that refuses")
    done = project.image("build", fine=False, variables={**project.workshop.variables, "DOCKER_HOST": "unix:///nowhere/docker.sock"})
    refused(project, done, "no container engine answers", "DOCKER_HOST", code=2)


def test_no_base_image(project):
    project.back()
    done = project.image("build", "--config", project.workshop.config(base="127.0.0.1:9/nowhere:none"), fine=False)
    refused(project, done, "the base image cannot be had", "127.0.0.1:9", "nowhere", "build.log")


def test_a_version_that_does_not_exist(project):
    def change(folder):
        for name in ("constraints.txt", "binder/environment.yml"):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace("six==1.17.0", "six==99.0"))

    refused(project, broken(project, "no such version", change), "cannot be installed", "six", "build.log")


def test_another_file_than_the_hash_says(project):
    def change(folder):
        file = folder / "binder/environment.yml"
        file.write_text(re.sub(r"(skops==[\d.]+ --hash=sha256:)[0-9a-f]{64}", lambda found: found[1] + "0" * 64, file.read_text()))

    refused(project, broken(project, "another hash", change), "cannot be installed", "skops", "build.log")


def test_a_post_build_that_fails(project):
    """It is the project's own, written by hand into the lock's place: the check sees that first, so the lock is told to ask for it."""
    def change(folder):
        (folder / "setup.py").write_text("import sys; sys.exit('the instrument is not calibrated')\n")

    done = broken(project, "fails", change)
    refused(project, done, "binder/postBuild fails", "the instrument is not calibrated", "build.log")
    assert not any("building-" in line for line in project.workshop.docker("image", "ls", "--format", "{{.Tag}}").split()), "nothing half built has a name"


def test_a_base_without_certificates(project):
    place = project.workshop.folder / "bare"
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text("FROM standin-base\nRUN : > /etc/ssl/certs/ca-certificates.crt && rm -rf /usr/share/ca-certificates\n")
    project.workshop.docker("buildx", "build", "--network", "host", "--load", "--tag", "standin-bare", place)
    project.back()
    done = project.image("build", "--config", project.workshop.config(base="standin-bare"), fine=False)
    refused(project, done, "certificate", "build.log")


def test_a_full_disk(project):
    """An engine of its own, on a disk of 1.3 GB: the base fits, and the environment does not."""
    workshop = project.workshop
    small = workshop.folder / "small"
    small.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=1300m", "tmpfs", small)
    processes = len(workshop.processes)
    try:
        variables = workshop.start_engine(small, "small", drivers=("overlay2", "vfs"))
        with subprocess.Popen(["docker", "save", "standin-base"], env=workshop.variables, stdout=subprocess.PIPE) as saved:
            loaded = subprocess.run(["docker", "load"], env=variables, stdin=saved.stdout, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr
        project.back()
        done = project.image("build", "--config", workshop.config(), fine=False, variables=variables)
        refused(project, done, "the disk is full", "build.log")
    finally:
        for process in workshop.processes[processes:]:
            workshop.stop(process)
        subprocess.run(["umount", "--lazy", small])


def test_a_registry_that_refuses_and_one_that_is_not_there(project):
    """Nothing is written beside the project, and nothing can be pulled."""
    project.back()
    project.image("build", "--name", project.name, "--config", project.workshop.config())
    refusing = project.workshop.start_registry(readonly=True)
    done = project.image("push", "--untested", "--name", f"{refusing}/someone/stars", fine=False)
    refused(project, done, "was not pushed")
    done = project.image("push", "--name", f"127.0.0.1:{free_port()}/someone/stars", "--untested", fine=False)
    refused(project, done, "does not answer")
    assert not (project.folder / "image.json").exists()
    tags = subprocess.run(["skopeo", "list-tags", "--tls-verify=false", f"docker://{refusing}/someone/stars"], env=project.workshop.variables, capture_output=True, text=True)
    assert tags.returncode != 0, tags.stdout


def test_a_secret_that_a_later_step_deletes(project):
    """It is found in the layer, and the image is not pushed."""
    step("a secret in a layer")
    place = project.workshop.folder / "leaky"
    place.mkdir(exist_ok=True)
    token = "gh" + "p_" + "A7b" * 12
    (place / "Dockerfile").write_text(f"FROM standin-base\nRUN echo {token} > /srv/token.txt\nRUN rm /srv/token.txt\n")
    project.workshop.docker("buildx", "build", "--network", "host", "--load", "--tag", "leaky", place)
    project.back()
    file = max((project.folder / "runs/images").glob("*/built.json"), key=lambda file: file.stat().st_mtime_ns)
    kept = file.read_text()
    try:
        identity = json.loads(project.workshop.docker("image", "inspect", "leaky"))[0]["Id"]
        file.write_text(json.dumps({**json.loads(kept), "id": identity}))
        done = project.image("push", "--name", project.name, "--untested", fine=False)
        text = refused(project, done, "/srv/token.txt", "a GitHub token", "Nothing was pushed", code=2)
        assert token not in text
    finally:
        file.write_text(kept)
