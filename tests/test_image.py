"""What goes into the image, and the commands for it, as far as no engine is needed. What needs one is in `tests/image/`: `make test-image`."""

import difflib
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import repo2docker
import yaml
from making import command, write_project
from rattler import MatchSpec, PackageRecord
from rattler.package.build_string import BuildString

from mlops_nb.build import Built
from mlops_nb.engine import Engine
from mlops_nb.errors import ImageFailed
from mlops_nb.image import FROM_CONDA, PLATFORMS, binder_files, image_pins, read_lock
from mlops_nb.inside import Tried, Verdict, read_verdict
from mlops_nb.layers import search_layers
from mlops_nb.links import is_pulled, links_here, plain_address, pull_path
from mlops_nb.registry import explain_refusal, push
from mlops_nb.settings import read_settings

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / "tests/image/Dockerfile.snapshot"
BUILT = yaml.safe_load((ROOT / "binder/environment.yml").read_text())["dependencies"]
ASKED = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA = [one for one in BUILT if isinstance(one, str)]
[PIP] = [one["pip"] for one in BUILT if isinstance(one, dict)]


@pytest.mark.parametrize("ref", ["main", "a/fix", "v1", "commit"])
def test_nbgitpuller_takes_what_the_links_give_it(tmp_path, ref):
    """A branch and a tag, as the link names them; a commit it does not take, and there is no link with one."""
    source, run = tmp_path / "stars", ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run([*run, "init", "--quiet", "--initial-branch", "main", source], check=True)
    subprocess.run([*run, "commit", "--quiet", "--allow-empty", "--message", "stars"], cwd=source, check=True)
    for words in (["branch", "a/fix"], ["tag", "v1"]):
        subprocess.run([*run, *words], cwd=source, check=True)
    name = subprocess.run([*run, "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True).stdout.strip() if ref == "commit" else ref
    asked = parse_qs(pull_path(source.as_uri(), name).partition("?")[2])
    pull = f"import sys; from nbgitpuller.pull import GitPuller; [print(line, end='') for line in GitPuller({asked['repo'][0]!r}, {str(tmp_path / 'pulled')!r}, branch={asked['branch'][0]!r}).pull()]"
    done = subprocess.run([sys.executable, "-c", pull], capture_output=True, text=True)
    assert (done.returncode == 0) == is_pulled(name) == (ref != "commit"), done.stdout + done.stderr


def test_the_dockerfile_of_the_real_way(tmp_path):
    """What repo2docker makes of binder/ with its own buildpack, conda included, is what somebody has looked at. The stand-in of `make test-image` replaces one of its steps.

    Where repo2docker has changed what it writes, look at the difference, and write the snapshot anew: UPDATE_SNAPSHOT=1 pytest tests/test_image.py
    """
    shutil.copytree(ROOT / "binder", tmp_path / "binder")
    made = subprocess.run([sys.executable, "-m", "repo2docker", "--no-build", "--no-run", "--user-id", "1000", "--user-name", "jovyan", "."], cwd=tmp_path, capture_output=True, text=True)
    text = (made.stdout + made.stderr).partition("FROM ")
    assert made.returncode == 0 and text[1], made.stderr
    dockerfile = re.sub(r"build_script_files/\S+", "build_script_files/…", "FROM " + text[2])
    dockerfile = re.sub(r"linux-(?:64|aarch64)", "linux-64", "\n".join(line.rstrip() for line in dockerfile.splitlines())).strip() + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(dockerfile)
    assert dockerfile == SNAPSHOT.read_text(), "\n".join(difflib.unified_diff(SNAPSHOT.read_text().splitlines(), dockerfile.splitlines(), lineterm=""))
    order = [dockerfile.index(words) for words in ("src/binder/environment.yml", "apt-get install --yes --no-install-recommends git", 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"', "src/ ${REPO_DIR}/", "RUN ./binder/postBuild")]
    assert order == sorted(order), "the environment is laid before the repository is copied"
    assert re.search(r"USER \$\{NB_USER\}\n", dockerfile), "it does not run as root"


def record(name: str, version: str) -> PackageRecord:
    return PackageRecord(name=name, version=version, build=BuildString("0"), build_number=0, subdir="linux-64")


def test_conda_reads_the_pins_as_they_are_meant():
    """By the parser of rattler, which pixi and conda use: each line is a specification, and takes the version of the lock and no other."""
    pins = image_pins(ROOT)
    seen = {}
    for line in CONDA:
        spec = MatchSpec(line, strict=True)
        seen[spec.name.normalized] = spec
    for name, conda in FROM_CONDA.items():
        if name in pins:
            assert seen[conda].matches(record(conda, pins[name])) and not seen[conda].matches(record(conda, "0.1"))
    assert seen["python"].matches(record("python", "3.11.14")) and not seen["python"].matches(record("python", "3.12.1"))
    assert set(seen) == {"python", "pip", "pytorch-cpu"}


def test_the_hand_written_environment_takes_what_the_image_has():
    """Each bound of environment.yml, read as conda reads it, takes the version that binder/ pins."""
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in image_pins(ROOT).items()}
    looked = 0
    for line in ASKED:
        if isinstance(line, str) and re.search("[<>=]", line):
            spec = MatchSpec(line, strict=True)
            name = re.sub(r"[-_.]+", "-", {"pytorch": "torch"}.get(spec.name.normalized, spec.name.normalized))
            if name != "python":
                assert spec.matches(record(spec.name.normalized, pins[name])), f"environment.yml says {line}, and the image has {pins[name]}"
                looked += 1
    assert looked > 20


def test_every_pin_of_pip_has_hashes():
    """Of sha256, on the line of the pin, as pip reads them; so nothing else than what was tested can be installed."""
    for line in PIP:
        assert re.fullmatch(r"[\w.-]+==[\w.]+(?: --hash=sha256:[0-9a-f]{64})+", line), line
    assert len(PIP) == len(image_pins(ROOT)) - sum(name in FROM_CONDA for name in image_pins(ROOT))


def test_the_lock_agrees_with_what_the_image_begins_with(tmp_path):
    """Laid over the packages of repo2docker's own lock, it leaves nothing that asks for another version, or for what is not there: `pip check` in the image would say so, after minutes."""
    spec = importlib.util.spec_from_file_location("base", ROOT / "tests/image/standin/base.py")
    spec.loader.exec_module(base := importlib.util.module_from_spec(spec))
    file = Path(repo2docker.__file__).parent / "buildpacks/conda/environment.py-3.11-linux-64.lock"
    begun, pins = base.pins_of(file.read_text()), {re.sub("[-_.]+", "-", name).lower(): version for name, version in image_pins(ROOT).items()}
    assert len(begun) > 120 and {"jupyterlab", "notebook", "jupyterhub"} <= set(begun)
    there = {name: version for name, version in {**begun, **pins}.items() if name == "pip" or name not in FROM_CONDA}
    (tmp_path / "pins.txt").write_text("".join(f"{name}=={version}\n" for name, version in there.items()))
    command = [Path(sys.prefix, "bin/uv"), "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate", "--python-version", "3.11", "--python-platform", PLATFORMS[0], "pins.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and re.search("Failed to fetch|Request failed|error sending request|dns error", done.stderr):
        pytest.skip(f"NOT CHECKED: the index does not answer: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    assert {line.partition("==")[0] for line in done.stdout.split()} == set(there), "a package is needed that is not in the image"


@pytest.fixture
def other(tmp_path):
    """A project of somebody else, with a lock of two packages; nothing of ours is in it."""
    root = write_project(tmp_path / "other", {"10_fit": ("seed: int = 0", "glue('score', seed)")})
    (root / "constraints.txt").write_text("# Resolved for Python 3.11.9 on Linux x86_64.\nsix==1.17.0\npip==26.0\n")
    (root / "environment.yml").write_text("name: other\ndependencies:\n  - python=3.11\n  - six\n")
    (root / "binder").mkdir()
    (root / "binder/environment.yml").write_text("dependencies:\n  - python=3.11\n  - pip:\n      - six==1.17.0 --hash=sha256:" + "ab" * 32 + "\n")
    return root


def test_any_project_can_be_prepared(other):
    """What it pins is written with the hash that is known; a change of the lock is seen by --check, which writes nothing."""
    done = command("image", "prepare", cwd=other)
    assert done.returncode == 0, done.stderr
    text = (other / "binder/environment.yml").read_text()
    assert "      - six==1.17.0 --hash=sha256:abab" in text and "  - pip=26.0\n" in text and "torch" not in text
    assert "pip install" not in (other / "binder/postBuild").read_text(), "there is no package to install"
    assert command("image", "prepare", "--check", cwd=other).returncode == 0
    (other / "constraints.txt").write_text((other / "constraints.txt").read_text().replace("1.17.0", "1.16.0"))
    done = command("image", "prepare", "--check", cwd=other)
    assert done.returncode == 1 and "binder/environment.yml" in done.stdout
    assert (other / "binder/environment.yml").read_text() == text


@pytest.mark.parametrize("python, asked", [("3.11", []), ("3.12", ["six"])])
def test_the_hashes_of_another_python_are_not_kept(other, python, asked):
    """They are of the wheels that fit it; where the image gets another Python, the index is asked anew."""
    (other / "constraints.txt").write_text("six==1.17.0\npip==26.0\n")
    (other / "environment.yml").write_text(f"dependencies:\n  - python={python}\n")
    seen = []
    files = binder_files(other, lambda pins, python: seen.extend(pins) or {"six==1.17.0": ["sha256:" + "cd" * 32]})
    assert seen == asked
    assert ("abab" in files["binder/environment.yml"]) == (not asked) and ("cdcd" in files["binder/environment.yml"]) == bool(asked)


def test_a_plain_freeze_is_a_lock(other):
    """Without headings, and with packages that are installed from a commit; what the image's own steps call, and nobody has pinned, is named."""
    commit = "git+https://github.com/someone/mlops_nb@" + "0f" * 20
    (other / "constraints.txt").write_text("six==1.17.0\npip==26.0\n")
    done = command("image", "prepare", cwd=other)
    assert done.returncode == 0 and "does not have 'ipykernel', 'mlops-nb'" in done.stderr, done.stderr
    (other / "binder/environment.yml").write_text("dependencies:\n  - python=3.11\n  - pip:\n" + "".join(f"      - {pin} --hash=sha256:{'ab' * 32}\n" for pin in ("six==1.17.0", "ipykernel==7.1.0")))
    (other / "constraints.txt").write_text(f"six==1.17.0\npip==26.0\nipykernel==7.1.0\nmlops_nb @ {commit}\n")
    done = command("image", "prepare", cwd=other)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"pip install --no-cache-dir --no-deps 'mlops_nb @ {commit}'\n" in (other / "binder/postBuild").read_text()


def test_what_uv_pip_compile_writes_is_a_lock(other):
    """Its comments under a line say who asked for it; they are no headings."""
    (other / "constraints.txt").write_text("# the study\nsix==1.17.0\n    # via\n    #   -r requirements.in\n    #   python-dateutil\npip==26.0\n    # via stars\n")
    done = command("image", "prepare", cwd=other)
    assert done.returncode == 0, done.stderr
    assert read_lock((other / "constraints.txt").read_text()) == {"the study": {"six": "1.17.0", "pip": "26.0"}}


@pytest.mark.parametrize(
    "file, text, words",
    [
        ("constraints.txt", "six>=1\n", ["constraints.txt", "six>=1", "exact version"]),
        ("constraints.txt", "six==1.17.0+cpu\n", ["six==1.17.0+cpu", "every machine"]),
        ("constraints.txt", "# Resolved for Python 3.12.1\nsix==1.17.0\n", ["3.11", "3.12"]),
        ("constraints.txt", "# Resolved for Python 3.11.1\n", ["names no package"]),
        ("constraints.txt", "six==1.17.0\n".encode("utf-16"), ["constraints.txt", "cannot be read", "UTF-8"]),
        ("environment.yml", "dependencies:\n  - python=3.11\n".encode("utf-16"), ["environment.yml", "cannot be read", "UTF-8"]),
        ("constraints.txt", None, ["constraints.txt", "cannot be read"]),
        ("environment.yml", None, ["environment.yml", "cannot be read"]),
        ("environment.yml", "dependencies:\n  - python>=3.11\n", ["python=3.11"]),
        ("settings.ini", "[image]\napt = git; rm -rf\n", ["git;"]),
        ("settings.ini", "[image]\nwithout = the tests\n", ["the tests", "no such part"]),
        ("settings.ini", "[image]\nnmae = x\n", ["nmae", "Did you mean 'name'?"]),
        (".binder/x", "", [".binder"]),
    ],
)  # fmt: skip
def test_what_cannot_be_an_image_is_refused(other, file, text, words):
    """In one sentence, and nothing is written."""
    before = sorted(str(path) for path in (other / "binder").iterdir())
    (other / file).parent.mkdir(exist_ok=True)
    (other / file).unlink(missing_ok=True) if text is None else (other / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    done = command("image", "prepare", cwd=other)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert sorted(str(path) for path in (other / "binder").iterdir()) == before


def test_without_an_engine_each_command_says_so(other, tmp_path):
    """Which were asked, what each said, and what to do."""
    (tmp_path / "empty").mkdir()
    git = shutil.which("git")
    (tmp_path / "empty/git").symlink_to(git)
    for words in (["build"], ["test"], ["launch"], ["push", "--name", "ghcr.io/someone/stars"]):
        done = command("image", *words, cwd=other, PATH=str(tmp_path / "empty"))
        assert done.returncode == 2 and "docker is not installed; podman is not installed" in done.stderr, done.stderr


def test_links(other):
    """For a branch, a pull request and a notebook; without an origin they are refused."""
    done = command("image", "link", cwd=other)
    assert done.returncode == 2 and "[image] content" in done.stderr
    (other / "settings.ini").write_text("[image]\ncontent = git@github.com:someone/stars.git\nenvironment = https://github.com/someone/environment\n")
    links = json.loads(command("image", "link", "nbs/pipelines/stars/10_fit.ipynb", "--branch", "main", "--json", cwd=other).stdout)
    assert links["binder"].startswith("https://mybinder.org/v2/gh/someone/environment/main?urlpath=git-pull%3Frepo%3D")
    assert links["nbgitpuller"] == "git-pull?repo=https%3A%2F%2Fgithub.com%2Fsomeone%2Fstars&branch=main&urlpath=lab%2Ftree%2Fstars%2Fnbs%2Fpipelines%2Fstars%2F10_fit.ipynb"
    assert links["badge"] == f"[![Binder](https://mybinder.org/badge_logo.svg)]({links['binder']})"
    done = command("image", "link", "--pull-request", "0", cwd=other)
    assert done.returncode == 2 and "--pull-request 0" in done.stderr


def test_without_a_branch_the_link_is_for_the_commit(other):
    """On a detached HEAD, as in continuous delivery; Binder would take HEAD for the default branch."""
    (other / "settings.ini").write_text("[image]\ncontent = https://github.com/someone/stars\n")
    git = ["git", "-C", other, "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "--quiet", "--initial-branch", "main"], ["commit", "--quiet", "--allow-empty", "--message", "stars"]):
        subprocess.run([*git, *words], check=True)
    assert links_here(other)["binder"].startswith("https://mybinder.org/v2/gh/someone/stars/main?")
    subprocess.run([*git, "checkout", "--quiet", "--detach"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    links = links_here(other)
    assert links["binder"].startswith(f"https://mybinder.org/v2/gh/someone/stars/{commit}?") and "nbgitpuller" not in links


@pytest.mark.parametrize(
    "address, plain",
    [
        ("https://git.example.org:8443/someone/stars.git", "https://git.example.org:8443/someone/stars"),
        ("https://ada:a-token@git.example.org:8443/someone/stars", "https://git.example.org:8443/someone/stars"),
        ("https://github.com:443/someone/stars", "https://github.com/someone/stars"),
        ("ssh://git@git.example.org:2222/someone/stars.git", "https://git.example.org/someone/stars"),
        ("git@git.example.org:someone/stars.git", "https://git.example.org/someone/stars"),
        ("http://git.example.org:3000/someone/stars", "https://git.example.org/someone/stars"),
    ],
)
def test_the_port_of_an_address(address, plain):
    """That of https is where the pages are; that of ssh, or of http, is not."""
    assert plain_address(address) == plain


def test_a_digest_with_403_in_it_is_no_refusal():
    """A registry that does not answer is not one at which to sign in."""
    said = "failed to copy 5f70bf18a0864403e: dial tcp 127.0.0.1:9: connect: connection refused"
    assert explain_refusal(said).startswith("the registry does not answer")
    assert explain_refusal("unexpected status: 403").startswith("the registry refuses")


def test_a_run_keeps_the_image_that_it_was_told(other):
    """In its record and in what `show` says; a run outside of an image says nothing of one."""
    told = "ghcr.io/someone/stars@sha256:" + "0f" * 32
    command("run", "nbs/pipelines/stars/10_fit.ipynb", cwd=other)
    assert "image" not in command("show", "fit", cwd=other).stdout
    done = command("run", "nbs/pipelines/stars/10_fit.ipynb", "-p", "seed=1", cwd=other, MLOPS_NB_IMAGE=told)
    assert done.returncode == 0, done.stderr
    latest = command("runs", "--limit", "1", "--json", cwd=other).stdout
    shown = json.loads(command("show", json.loads(latest)[0]["id"], "--json", cwd=other).stdout)
    assert shown["image"] == {"name": "ghcr.io/someone/stars", "digest": "sha256:" + "0f" * 32}
    assert told in command("show", shown["id"], cwd=other).stdout


def packed_layers(folder, pack):
    """Return an engine that has one image, whose two layers it hands out packed, and the digests of the layers as they are unpacked."""
    token, digests = "gh" + "p_" + "A7b" * 12, []
    with tarfile.open(folder / "saved.tar", "w") as saved:
        for name, content in (("srv/token.txt", token.encode()), ("srv/other.txt", b"stars")):
            layer = io.BytesIO()
            with tarfile.open(fileobj=layer, mode="w") as archive:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            digests.append("sha256:" + hashlib.sha256(layer.getvalue()).hexdigest())
            for blob in (pack(layer.getvalue()), b'{"mediaType": "application/vnd.oci.image.config.v1+json"}'):
                member = tarfile.TarInfo(f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}")
                member.size = len(blob)
                saved.addfile(member, io.BytesIO(blob))
    about = json.dumps([{"Id": "sha256:" + "0f" * 32, "RootFS": {"Layers": digests}, "Config": {}}])
    program = folder / "docker"
    program.write_text(f"#!/bin/bash\ncase $2 in inspect) echo '{about}';; save) cat '{folder}/saved.tar';; esac\n")
    program.chmod(0o755)
    return Engine("docker", str(program), "29.0"), digests


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_secret_is_found_in_a_layer_however_it_is_packed(tmp_path, pack):
    """An engine that keeps its images with containerd hands their layers out as gzip packed them, also small ones, and names them by what they are unpacked."""
    engine, digests = packed_layers(tmp_path, pack)
    [leak] = search_layers(engine, "stars", tmp_path / "memory")
    assert (leak.where, leak.layer) == ("/srv/token.txt", digests[0])
    (tmp_path / "saved.tar").unlink()
    assert search_layers(engine, "stars", tmp_path / "memory") == [leak], "what was found is remembered"


@pytest.mark.parametrize("pack, words", [(lambda layer: b"\x28\xb5\x2f\xfd" + layer, "zstd"), (lambda layer: gzip.compress(layer)[:60], "could not be read")])
def test_a_layer_that_cannot_be_unpacked_is_said(tmp_path, pack, words):
    """In a sentence; nobody knows what is in it, so the image is not pushed."""
    engine, _ = packed_layers(tmp_path, pack)
    with pytest.raises(ImageFailed, match="2 of 2 layers of stars could not be read") as said:
        search_layers(engine, "stars", tmp_path / "memory")
    assert words in str(said.value)


@pytest.fixture
def played(tmp_path):
    """An engine whose one image is a folder: packages of Python that pip installed from an index, from a folder and from a commit, and what conda has written down."""
    site = tmp_path / "lib/python3.11/site-packages"
    for name, version, files in (
        ("six", "1.17.0", {"INSTALLER": "pip"}),
        ("numpy", "2.4.6", {"INSTALLER": "conda", "direct_url.json": '{"dir_info": {}, "url": "file:///croot/numpy"}'}),
        ("stars", "0.1", {"INSTALLER": "pip", "direct_url.json": '{"dir_info": {"editable": true}, "url": "file:///home/jovyan"}'}),
        ("mlops_nb", "0.1.0", {"INSTALLER": "pip", "direct_url.json": '{"vcs_info": {"vcs": "git"}, "url": "https://github.com/someone/mlops_nb"}'}),
        ("notebook", "7.6.5", {"INSTALLER": "pip"}),
    ):
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        for file, text in {**files, "METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"}.items():
            (folder / file).write_text(text)
    (tmp_path / "stars.egg-info").mkdir()  # as in the folder of a project that is installed from there
    (tmp_path / "stars.egg-info/PKG-INFO").write_text("Metadata-Version: 2.4\nName: stars\nVersion: 0.1\n")
    (tmp_path / "conda-meta").mkdir()
    for name, version, file in (("numpy", "2.4.6", "numpy-2.4.6.dist-info/METADATA"), ("notebook", "7.4.7", "notebook-7.4.7.dist-info/METADATA"), ("openssl", "3.5.4", "openssl.h")):
        about = {"name": name, "version": version, "build": "h26f9b46_0", "subdir": "linux-64", "channel": "https://conda.anaconda.org/conda-forge/linux-64", "license": "Apache-2.0", "files": [f"lib/python3.11/site-packages/{file}"]}
        (tmp_path / f"conda-meta/{name}-{version}.json").write_text(json.dumps(about))
    program = tmp_path / "docker"
    digest = "sha256:" + "5e" * 32
    program.write_text(f"#!/bin/bash\ncd {tmp_path}; case $1 in run) PYTHONPATH={site} CONDA_PREFIX={tmp_path} exec {sys.executable} -S -;; push) echo latest: digest: {digest};; esac\n")
    program.chmod(0o755)
    (tmp_path / "settings.ini").touch()
    return Engine("docker", str(program), "29.0")


def pushed(engine, root, verdict=None):
    """Push the played image, with nobody there to say what is known against it; return what image.json says."""
    built = Built("stars:3f1b0c9a77de", "sha256:" + "0f" * 32, "3f1b0c9a77de", "0724db68a1f2", 1, 1.0, (), (), "build.log")
    push(engine, built, read_settings(root), verdict, "127.0.0.1:5000/someone/stars", "http://127.0.0.1:9/v1/query")
    return json.loads((root / "image.json").read_text())


def test_the_bill_names_what_conda_installed(played, tmp_path):
    """By conda's own files, but for what pip has replaced since."""
    written = pushed(played, tmp_path)
    parts = json.loads((tmp_path / "image.cdx.json").read_text())["components"]
    conda = {part["purl"]: part["licenses"] for part in parts if part["purl"].startswith("pkg:conda/")}
    assert conda == {f"pkg:conda/{name}?build=h26f9b46_0&channel=conda-forge&subdir=linux-64": [{"license": {"id": "Apache-2.0"}}] for name in ("numpy@2.4.6", "openssl@3.5.4")}
    assert len(parts) == written["bill"]["components"] and "pkg:pypi/notebook@7.6.5" in {part["purl"] for part in parts}


def test_what_comes_from_no_index_is_not_looked_up(played, tmp_path):
    """An index may have another package of that name. What conda built from a folder of its own is a release, and is looked up."""
    known = pushed(played, tmp_path)["vulnerabilities"]
    assert known["unknown"] == ["notebook", "numpy", "six"]
    assert known["not_asked"] == "the packages of the distribution; those of conda that are not of Python; mlops_nb, stars, which come from no index"


@pytest.mark.parametrize("same", [True, False])
def test_the_verdict_on_another_image_is_not_written_down(played, tmp_path, same):
    """An image that was built again and not tried is pushed with --untested; what an earlier one of that name was found to be does not count."""
    verdict = Verdict("sha256:" + ("0f" if same else "1e") * 32, "2026-11-27T12:00:00Z", (Tried("pip check", True, 1.0, ""),))
    found = pushed(played, tmp_path, verdict)["tested"]
    assert found == ({"when": "2026-11-27T12:00:00Z", "well": True, "checks": ["pip check"]} if same else None)


def test_a_verdict_that_is_cut_off_is_none(tmp_path):
    (tmp_path / "tested.json").write_text('{"id": "sha256:')
    assert read_verdict(tmp_path) is None
    assert read_settings(ROOT).image["without"] == "the tests"
