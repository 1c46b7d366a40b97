"""A diamond of steps, each a second of waiting: a, then b and c, then d. DVC and Snakemake beside ours."""

import json
import sys
from pathlib import Path

from measure import Case, Command, Wrong, make_once, tool
from overhead import clear, notebook
from peers import install_peers, peer
from project import make_project
from ways import knows, make_projects, projects

STEPS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}  # what each reads; it writes 1 + 2 × the sum of that: 1, 3, 3, 13
WORK = """\
import time

time.sleep(1)
"""
SCRIPT = f"""import sys
from pathlib import Path

{WORK}
target, *sources = map(Path, sys.argv[1:])
target.write_text(str(1 + 2 * sum(int(source.read_text()) for source in sources)))
"""
NOTE = """\
A step waits one second and writes a file; one step at a time is 4 s, with b and c at once 3 s. Ours runs notebooks, and so do DVC and Snakemake *with papermill*;
*with scripts* they run the same lines as plain Python. Everything is run again each time (`--force`, `--forceall`)."""


def cases(folder: Path) -> list[Case]:
    """Return the one case."""
    place = folder / "diamond"
    jobs = ("--jobs", "2") if knows("run", "--jobs") else ()
    ours = " ".join(("mlops-nb run", *jobs))

    def make() -> None:
        install_peers("dvc", "snakemake")
        make_projects(place)
        for project in projects(place).values():
            _write_ours(project)
        for name, write in {"dvc": _write_dvc, "snakemake": _write_snakemake}.items():
            for form in COMMANDS:
                project = place / f"{name}-{form}"
                make_project(project)
                clear(project / "data")
                (project / "step.py").write_text(SCRIPT)
                (project / "step.ipynb").write_text(json.dumps(_notebook(["target = ''\nsources = ''", PAPERMILL_CELL], 0)))
                write(project, COMMANDS[form])

    def command(name: str, arguments: tuple[str, ...], project: Path) -> Command:
        return Command(name, arguments, _check(project), lambda: clear(project / "data"), folder=project)

    floor = "sh steps.sh: two at once, plain Python"
    commands = [command(floor, ("/bin/sh", "steps.sh"), place)]
    commands += [command(f"{ours}{said}", (tool("mlops-nb"), "run", *jobs, "--force"), project) for said, project in projects(place).items()]
    for form, said in {"script": "scripts", "papermill": "papermill"}.items():
        commands.append(command(f"dvc repro, with {said}", (peer("dvc"), "repro", "--force"), place / f"dvc-{form}"))
        snakemake = (peer("snakemake"), "--cores", "2", "--forceall", "--quiet", "all")
        commands.append(command(f"snakemake --cores 2, with {said}", snakemake, place / f"snakemake-{form}"))
    return [Case("diamond", "A diamond of four steps: a, then b and c, then d", place, make, tuple(commands), ours=ours, floor=floor, rounds=3, note=NOTE)]


PAPERMILL_CELL = f"""\
from pathlib import Path

{WORK}
Path(target).write_text(str(1 + 2 * sum(int(Path(source).read_text()) for source in sources.split())))"""
COMMANDS = {  # by form, with the target and the sources
    "script": f"{sys.executable} step.py {{target}} {{sources}}",
    "papermill": f"{tool('papermill')} --no-progress-bar step.ipynb {{target}}.ipynb -p target {{target}} -p sources '{{sources}}'",
}


def _check(project: Path):
    def check(printed: str) -> None:
        found = {name: _file(project, name).read_text() if _file(project, name).is_file() else None for name in STEPS}
        if found != {"a": "1", "b": "3", "c": "3", "d": "13"}:
            raise Wrong(f"its steps wrote {found}")

    return check


def _file(project: Path, name: str) -> Path:
    return project / "data" / f"{name}.txt"


def _paths(names: tuple[str, ...]) -> list[str]:
    return [f"data/{name}.txt" for name in names]


def _notebook(sources: list[str], parameters: int) -> dict:
    found = notebook(sources)
    found["cells"][parameters]["metadata"] = {"tags": ["parameters"]}
    return found


def _write_ours(project: Path) -> None:
    """Write a pipeline of templates, and for the floor the same steps as lines of a shell."""
    templates = project / "nbs" / "pipelines" / "diamond"
    templates.mkdir(parents=True)
    for number, (name, needed) in enumerate(STEPS.items(), start=1):
        contract = [f'{other} = Input("data/{other}.txt")' for other in needed] + [f'written = Output("data/{name}.txt")']
        total = " + ".join(f"int(Path({other}).read_text())" for other in needed) or "0"
        cells = ["from pathlib import Path\n\nfrom mlops_nb import Input, Output", "\n".join(contract), f"{WORK}\nPath(written).write_text(str(1 + 2 * ({total})))"]
        (templates / f"{number}0_{name}.ipynb").write_text(json.dumps(_notebook(cells, 1)))
    (project / "step.py").write_text(SCRIPT)
    lines = {name: " ".join(("python", "step.py", *_paths((name, *needed)))).replace("python", sys.executable, 1) for name, needed in STEPS.items()}
    (project / "steps.sh").write_text(f"set -e\n{lines['a']}\n{lines['b']} &\n{lines['c']}\nwait $!\n{lines['d']}\n")


def _write_dvc(project: Path, command: str) -> None:
    stages = "".join(
        f"  {name}:\n    cmd: {command.format(target=_paths((name,))[0], sources=' '.join(_paths(needed)))}\n"
        f"    deps: [{', '.join(['step.py', *_paths(needed)])}]\n    outs: [{_paths((name,))[0]}]\n"
        for name, needed in STEPS.items()
    )
    (project / "dvc.yaml").write_text(f"stages:\n{stages}")
    make_once(project, peer("dvc"), "init", "--quiet", "--force")


def _write_snakemake(project: Path, command: str) -> None:
    rules = [
        f'rule {name}:\n    input: "step.py", {", ".join(map(repr, _paths(needed)))}\n    output: "{_paths((name,))[0]}"\n'
        f'    shell: {command.format(target=_paths((name,))[0], sources=" ".join(_paths(needed)))!r}\n'
        for name, needed in STEPS.items()
    ]
    (project / "Snakefile").write_text("\n".join(['rule all:\n    input: "data/d.txt"\n', *rules]))
