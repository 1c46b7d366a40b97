"""The image, for real: built by repo2docker, tried, pushed, pulled, opened in a browser, launched by a hub; and what happens when something is wrong.

What this does not show: that conda-forge resolves `binder/environment.yml`, since its servers need not be in reach: `standin/` lays the environment instead. Nor that
the packages of `apt.txt` are in Ubuntu: the base image is Debian. `tests/test_image.py` holds the Dockerfile of the real way against a snapshot.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
from clone import ended, pushed, refused
from hub import Hub, install
from workshop import free_port, run, say

pytestmark = [pytest.mark.image, pytest.mark.timeout(1200)]
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def step(text: str) -> None:
    say(f"== {text}")


def test_built(project, beside):
    """repo2docker builds the commit. The same commit again is the same image, to the last byte."""
    step("build")
    beside.begin(the_parts_of_a_hub)
    project.back()
    project.build()
    first = project.built()
    assert {part["part"] for part in first["steps"]} == {"base", "environment", "content"} and first["commit"] == project.first
    project.build()
    assert project.built()["id"] == first["id"] and project.carried_out() == {"base": 0, "environment": 0, "content": 0}
    labels = json.loads(project.workshop.docker("image", "inspect", first["reference"]))[0]["Config"]["Labels"]
    assert labels["mlops_nb.commit"] == project.first and labels["mlops_nb.environment"] == first["environment"]
    assert labels["org.opencontainers.image.source"] == "https://github.com/someone/stars"
    beside.begin(*REFUSED)


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


def test_the_same_commit_gives_the_same_environment(project, beside):
    """Built again without any cache: the same packages, and the same files but for those that are explained."""
    step("the same commit, built twice")
    first = project.built()
    memory = project.workshop.folder / "twice.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    if known.get("id") != first["id"]:
        project.build("--name", f"{project.name}-again", config=project.workshop.config(extra=("--no-cache",)))
        again = project.built()
        assert project.carried_out()["environment"] == len([one for one in again["steps"] if one["part"] == "environment"])
        sides = [json.loads(run("docker", "run", "--rm", "--interactive", "--network", "none", one, "python", "-", env=project.workshop.variables, input=LISTING).splitlines()[-1]) for one in (first["id"], again["id"])]
        different = sorted(name for name in sides[0]["files"].keys() | sides[1]["files"].keys() if sides[0]["files"].get(name) != sides[1]["files"].get(name))
        memory.write_text(json.dumps({"id": again["id"], "packages": [side["packages"] for side in sides], "files": len(sides[0]["files"]), "different": different}))
        project.workshop.docker("rmi", "--force", first["reference"], again["reference"])
        project.build()
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
    beside.begin(a_post_build_that_fails, an_edited_notebook, another_pin, the_study_through_papermill)


def test_tried_from_inside(project):
    """Versions, imports, published results, the pipeline, JupyterLab: all hold, in a container without a network."""
    step("test from inside")
    said = project.image("test").stdout
    assert said.count("  yes  ") == 8 and "  NO " not in said


def test_pushed(project, beside):
    """image.json says what was pushed; the bill of materials lies beside it, and what is known of vulnerabilities."""
    step("push")
    project.image("push", "--name", project.name)
    beside.begin(pulled_back)
    written = pushed(project.folder)
    assert written["tested"]["well"] and written["environment"] == project.built()["environment"]
    bill = json.loads((project.folder / "image.cdx.json").read_text())
    names = {part["name"] for part in bill["components"]}
    assert {"numpy", "torch", "jupyterlab", "git"} <= names and len(bill["components"]) == written["bill"]["components"]
    verdict = written["vulnerabilities"]
    assert verdict["verdict"] != "none" and (verdict["verdict"] == "unknown") == bool(verdict["unknown"] and not verdict["found"])
    say(f"vulnerabilities: {verdict['verdict']} {verdict['why']}")


@pytest.fixture(scope="module")
def opened(project, beside):
    """The pushed image, opened as a collaborator would open it: the address and the token."""
    notebook = "nbs/pipelines/variables/20_explore.ipynb"
    command = [sys.executable, "-m", "mlops_nb", "image", "launch", notebook, "--network", "host"]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore Ctrl-C
    with subprocess.Popen(command, cwd=project.folder, env=project.workshop.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heed) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if "?token=" in line:
                break
        assert lines and "?token=" in lines[-1], lines
        beside.begin(a_run_in_the_opened_image, a_run_again_in_its_image)
        yield lines[-1]
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.returncode == 130


@pytest.fixture(scope="module")
def hub(project, beside):
    """A JupyterHub for the pushed image; it starts while the browser is at work."""
    beside(the_parts_of_a_hub)
    written = pushed(project.folder)
    with Hub(project.workshop, f"{written['name']}@{written['digest']}") as hub:
        yield hub


def the_parts_of_a_hub(project):
    install(project.workshop)


def test_opened_in_a_browser(hub, opened):
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


def the_study_through_papermill(project):
    templates = sorted(path.name for path in (project.folder / "nbs/pipelines/variables").glob("*.ipynb"))
    script = "set -e; cd nbs/pipelines/variables; mkdir -p /tmp/out; for one in " + " ".join(templates) + "; do options=; case $one in 30_*) options='-p stars_per_class 60';; 50_*) options='-p epochs 3';; 70_*) options='-p replicates 100';; esac; papermill --no-progress-bar $one /tmp/out/$one $options 2>/tmp/said || { cat /tmp/said; exit 1; }; done; ls /tmp/out | wc -l"
    project.build()
    return project.workshop.docker("run", "--rm", "--network", "none", project.built()["id"], "bash", "-c", script).split()[-1], len(templates)


def test_the_pipeline_through_papermill(beside):
    """Plain papermill runs the study's notebooks inside, one after the other."""
    written, templates = beside(the_study_through_papermill)
    assert written == str(templates)
    beside.remember(the_study_through_papermill)
    say(f"{templates} notebooks ran through papermill inside")


def test_launched_by_a_hub(project, hub):
    """A JupyterHub with DockerSpawner starts the same image by its digest over its API; a notebook's kernel in it is told which image it is in."""
    step("JupyterHub with DockerSpawner")
    written = pushed(project.folder)
    server = hub.launch("ada")
    answer = hub.run_in(server, "from mlops_nb.environment import image; print(image())")
    assert written["digest"] in answer and written["environment"] in answer, answer
    hub.stop_server("ada")
    say(f"the hub launched {hub.image[-71:][:26]}…, and a kernel in it said so")


def pulled_back(project):
    written = pushed(project.workshop.folder / "project")
    back = project.workshop.folder / "pulled"
    shutil.rmtree(back, ignore_errors=True)
    run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{written['name']}:{written['tag']}", f"dir:{back}", env=project.workshop.variables)
    manifest = (back / "manifest.json").read_bytes()
    described = [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]
    found = []
    for one in described:
        file = back / one["digest"].removeprefix("sha256:")
        with file.open("rb") as content:
            found.append({"digest": f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}", "size": file.stat().st_size})
    shutil.rmtree(back)
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}", [{"digest": one["digest"], "size": one["size"]} for one in described], found


def test_pulled_back_whole(project, beside):
    """What skopeo pulls has the digest that was written down, and every layer is what its digest says."""
    digest, described, found = beside(pulled_back)
    assert digest == pushed(project.folder)["digest"]
    assert described == found
    say(f"skopeo pulled back {len(found) - 1} layers, whole; {digest}")


def a_run_in_the_opened_image(project):
    name = project.workshop.docker("ps", "--filter", "name=mlops-nb-", "--format", "{{.Names}}").split()[0]
    asked = "import glob; print([line for file in glob.glob('/proc/[0-9]*/environ') for line in open(file).read().split(chr(0)) if line.startswith('MLOPS_NB_IMAGE=')][0])"
    told = project.workshop.docker("exec", name, "python", "-c", asked).strip()
    return told, project.workshop.docker("exec", "--env", told, name, "bash", "-c", "mlops-nb run nbs/pipelines/variables/10_ingest.ipynb >/dev/null && mlops-nb show ingest")


def test_a_run_keeps_the_digest(project, opened, beside):
    """A run in the opened image says which image it was."""
    told, shown = beside(a_run_in_the_opened_image)
    digest = pushed(project.folder)["digest"]
    assert digest in told and digest[:19] in shown, shown
    say(f"a run in the image says {re.search('image.*', shown)[0].strip()}")


def a_run_again_in_its_image(project):
    code, said, noted = project.run_again_in(pushed(project.workshop.folder / "project"), project.workshop.variables)
    return code, said + noted, project.git("status", "--short")


def test_a_run_again_in_its_image(beside):
    """`reproduce --in-image` starts the image that a run was made in, and finds the same numbers there."""
    code, text, changed = beside(a_run_again_in_its_image)
    assert code == 0 and "ingest: identical, 100 %" in text and "it ran again in the image that the recorded run was made in" in text, text
    assert not changed
    beside.remember(a_run_again_in_its_image)
    say(next(line for line in text.splitlines() if "ingest: identical" in line))


def an_edited_notebook(project):
    file = project.folder / "nbs/pipelines/variables/20_explore.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][0]["source"] = ["edited\n"]
    file.write_text(json.dumps(notebook))
    project.commit("edited")
    project.build()
    return project.carried_out(), project.built()["layers"]


def test_an_edited_notebook_costs_no_installation(project, beside):
    """No step of the base or of the environment is carried out."""
    counted, layers = beside(an_edited_notebook)
    assert counted["base"] == counted["environment"] == 0
    same = sum(one == two for one, two in zip(project.built()["layers"], layers, strict=True))
    assert 0 < same < len(layers)
    say(f"a notebook was edited; carried out: {counted}; {same} of {len(layers)} layers are the same")


def another_pin(project):
    lock = project.folder / "constraints.txt"
    other = "webcolors==25.10.0", "webcolors==24.11.1"
    assert other[0] in lock.read_text()
    lock.write_text(lock.read_text().replace(*other))
    assert project.image("prepare", "--check", fine=False).returncode == 1
    project.image("prepare")
    project.commit("another version")
    project.build()
    asked = "from importlib.metadata import version; print(version('webcolors'))"
    inside = project.workshop.docker("run", "--rm", "--network", "none", project.built()["id"], "python", "-c", asked)
    return project.carried_out(), len([one for one in project.built()["steps"] if one["part"] == "environment"]), inside.split()[-1]


def test_another_pin_costs_the_environment(beside):
    """Each step of the environment is carried out, none of the base; what stands above the environment follows."""
    counted, steps, version = beside(another_pin)
    assert counted["base"] == 0 and counted["environment"] in (0, steps), counted  # 0: this very change was built before
    assert version == "24.11.1"
    say(f"a pin was changed; carried out: {counted}, of {steps} steps of the environment")


# What goes wrong. Each of these returns an exit code and what was said.


def no_engine(project):
    return ended(project.build(fine=False, variables={**project.workshop.variables, "DOCKER_HOST": "unix:///nowhere/docker.sock"}))


def test_no_engine(beside):
    """Nothing answers at DOCKER_HOST; podman is not there."""
    refused(beside(no_engine), "no container engine answers", "DOCKER_HOST", code=2)
    beside.remember(no_engine)


def no_base_image(project):
    return ended(project.build(config=project.workshop.config(base="127.0.0.1:9/nowhere:none"), fine=False))


def test_no_base_image(beside):
    refused(beside(no_base_image), "the base image cannot be had", "127.0.0.1:9", "nowhere", "build.log")
    beside.remember(no_base_image)


def a_version_that_does_not_exist(project):
    for name in ("constraints.txt", "binder/environment.yml"):
        file = project.folder / name
        file.write_text(file.read_text().replace("six==1.17.0", "six==99.0"))
    project.commit("no such version")
    return ended(project.build(fine=False))


def test_a_version_that_does_not_exist(beside):
    refused(beside(a_version_that_does_not_exist), "cannot be installed", "six", "build.log")
    beside.remember(a_version_that_does_not_exist)


def another_file_than_the_hash_says(project):
    file = project.folder / "binder/environment.yml"
    file.write_text(re.sub(r"(skops==[\d.]+ --hash=sha256:)[0-9a-f]{64}", lambda found: found[1] + "0" * 64, file.read_text()))
    project.commit("another hash")
    return ended(project.build(fine=False))


def test_another_file_than_the_hash_says(beside):
    refused(beside(another_file_than_the_hash_says), "cannot be installed", "skops", "build.log")
    beside.remember(another_file_than_the_hash_says)


def a_post_build_that_fails(project):
    (project.folder / "setup.py").write_text("import sys; sys.exit('the instrument is not calibrated')\n")
    project.commit("fails")
    end = ended(project.build(fine=False))
    listed = project.workshop.docker("image", "ls", "--format", "{{.Tag}}", project.name).split()
    assert not any("building-" in tag for tag in listed), "something half built has a name"
    return end


def test_a_post_build_that_fails(beside):
    """It installs the package of the repository, and that package cannot be installed."""
    refused(beside(a_post_build_that_fails), "binder/postBuild fails", "the instrument is not calibrated", "build.log")
    beside.remember(a_post_build_that_fails)


def a_base_without_certificates(project):
    place = project.workshop.folder / "bare"
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text("FROM standin-base\nRUN : > /etc/ssl/certs/ca-certificates.crt && rm -rf /usr/share/ca-certificates\n")
    project.workshop.docker("buildx", "build", "--network", "host", "--load", "--tag", "standin-bare", place)
    return ended(project.build(config=project.workshop.config(base="standin-bare"), fine=False))


def test_a_base_without_certificates(beside):
    refused(beside(a_base_without_certificates), "certificate", "build.log")
    beside.remember(a_base_without_certificates)


def a_full_disk(project):
    """An engine of its own, on a disk of 1.3 GB: the base fits, and the environment does not."""
    workshop = project.workshop
    small = workshop.folder / "small"
    small.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=1300m", "tmpfs", small)
    engine = None
    try:
        engine, variables = workshop.start_engine(small, "small", drivers=("overlay2", "vfs"))
        with subprocess.Popen(["docker", "save", "standin-base"], env=workshop.variables, stdout=subprocess.PIPE) as saved:
            loaded = subprocess.run(["docker", "load"], env=variables, stdin=saved.stdout, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr
        return ended(project.build(fine=False, variables=variables))
    finally:
        if engine is not None:
            workshop.stop(engine)
        subprocess.run(["umount", "--lazy", small])


def test_a_full_disk(beside):
    refused(beside(a_full_disk), "the disk is full", "build.log")
    beside.remember(a_full_disk)


REFUSED = (no_engine, no_base_image, a_version_that_does_not_exist, another_file_than_the_hash_says, a_base_without_certificates, a_full_disk)


def test_a_registry_that_refuses_and_one_that_is_not_there(project):
    """Nothing is written beside the project, and nothing can be pulled."""
    step("a registry that refuses")
    file = project.folder / "image.json"
    written = file.read_text()
    refusing = project.workshop.start_registry(readonly=True)
    done = project.image("push", "--untested", "--name", f"{refusing}/someone/stars", fine=False)
    refused(ended(done), "was not pushed", "it can only be read")
    done = project.image("push", "--name", f"127.0.0.1:{free_port()}/someone/stars", "--untested", fine=False)
    refused(ended(done), "does not answer")
    assert file.read_text() == written
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
    file = max((project.folder / "runs/images").glob("*/built.json"), key=lambda file: file.stat().st_mtime_ns)
    kept = file.read_text()
    try:
        identity = json.loads(project.workshop.docker("image", "inspect", "leaky"))[0]["Id"]
        file.write_text(json.dumps({**json.loads(kept), "id": identity}))
        done = project.image("push", "--name", project.name, "--untested", fine=False)
        text = refused(ended(done), "/srv/token.txt", "a GitHub token", "Nothing was pushed", code=2)
        assert token not in text
    finally:
        file.write_text(kept)
