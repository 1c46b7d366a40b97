"""What it costs to learn that there is nothing to do: in pipelines of 5 and of 200 steps, and over 10,000 input files. DVC, Snakemake and Ploomber beside it."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from measure import Case, Command, Wrong, make_once, saying, tool
from overhead import notebook
from peers import PEERS, install_peers, peer
from project import make_project

CHAIN = 5  # steps that need one another; a longer pipeline is several of these
ROWS = 1000  # of each file that the steps write
FILES, FILE_BYTES = 10_000, 100_000

SHARED = '''"""What the steps share; as a program: `python shared.py SOURCE TARGET WIDTH`."""

import csv
import sys


def read(path):
    with open(path, newline="") as file:
        return [float(row[0]) for row in csv.reader(file)]


def smooth(values, width):
    return [sum(values[max(0, i - width) : i + 1]) / len(values[max(0, i - width) : i + 1]) for i in range(len(values))]


def write(path, values):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([value] for value in values)


if __name__ == "__main__":
    write(sys.argv[2], smooth(read(sys.argv[1]), int(sys.argv[3])))
'''


def cases(folder: Path) -> list[Case]:
    """Return a case for each length of the pipeline, and two for the many files."""
    return [_pipeline(steps, folder / f"nothing-{steps}") for steps in (CHAIN, 200)] + [_first_look(folder / "files"), _second_look(folder / "files")]


def _pipeline(steps: int, folder: Path) -> Case:
    tools = {name: folder / name for name in ("ours", "dvc", "snakemake", "ploomber")}

    def make() -> None:
        install_peers(*PEERS)
        for name, place in tools.items():
            make_project(place)
            _write_data(place)
            MAKERS[name](place, steps)
        record_runs(tools["ours"])
        make_once(tools["dvc"], peer("dvc"), "repro", "--quiet")
        make_once(tools["snakemake"], peer("snakemake"), "--cores", "2", "--quiet", "all")
        make_once(tools["ploomber"], peer("ploomber"), "build")

    def fresh(printed: str) -> None:
        if printed.count(" fresh") != steps:
            raise Wrong(f"{printed.count(' fresh')} of {steps} steps are fresh")

    def ran_nothing(printed: str) -> None:
        if printed.count("succeeded") != steps or len(list((tools["ours"] / "runs" / "records").iterdir())) != steps:
            raise Wrong("it ran something")

    def none_ran(printed: str) -> None:
        if printed.count("False") != steps or "True" in printed:
            raise Wrong("it ran something")

    nothing = Command("python -c pass", (sys.executable, "-c", "pass"), lambda printed: None)
    commands = (
        nothing,
        Command("read what can change", (sys.executable, "-c", LOOK, str(tools["ours"])), lambda printed: None),
        Command("mlops-nb run", (tool("mlops-nb"), "run"), ran_nothing, folder=tools["ours"]),
        Command("mlops-nb status", (tool("mlops-nb"), "status"), fresh, folder=tools["ours"]),
        Command("dvc repro", (peer("dvc"), "repro"), saying("are up to date"), folder=tools["dvc"]),
        Command("dvc status", (peer("dvc"), "status"), saying("are up to date"), folder=tools["dvc"]),
        Command("snakemake", (peer("snakemake"), "--cores", "2"), lambda printed: None, folder=tools["snakemake"]),
        Command("ploomber build", (peer("ploomber"), "build"), none_ran, folder=tools["ploomber"]),
    )
    return Case(f"nothing-{steps}", f"Nothing to do, {steps} steps", folder, make, commands, ours="mlops-nb run", floor=nothing.name)


LOOK = """
import os, sys
for place, _, names in os.walk(sys.argv[1]):
    if "runs" not in place and ".git" not in place:
        for name in names:
            os.stat(os.path.join(place, name))
"""  # the files that decide: templates, code, data


def _write_data(folder: Path) -> None:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "raw.csv").write_text("".join(f"{number * number % 97}\n" for number in range(ROWS)))
    (folder / "shared.py").write_text(SHARED)


def _name(number: int) -> str:
    return f"s{number:03d}"


def _reads(number: int) -> str:
    return "data/raw.csv" if number % CHAIN == 0 else _writes(number - 1)


def _writes(number: int) -> str:
    return f"data/{_name(number)}.csv"


def _width(number: int) -> int:
    return number % 7 + 1


def _ours(folder: Path, steps: int) -> None:
    templates = folder / "nbs" / "pipelines" / "chains"
    templates.mkdir(parents=True)
    for number in range(steps):
        contract = f'source = Input("{_reads(number)}")\nsmoothed = Output("{_writes(number)}")\nwidth: int = {_width(number)}  # values'
        sources = ["import shared\nfrom mlops_nb import Input, Output", contract, "shared.write(smoothed, shared.smooth(shared.read(source), width))"]
        template = notebook(sources)
        template["cells"][1]["metadata"]["tags"] = ["parameters"]
        (templates / f"{number:03d}_{_name(number)}.ipynb").write_text(json.dumps(template))


def _dvc(folder: Path, steps: int) -> None:
    make_once(folder, peer("dvc"), "init", "--quiet", "--force")
    make_once(folder, peer("dvc"), "config", "core.analytics", "false")
    stages = [
        f"  {_name(number)}:\n    cmd: python3 shared.py {_reads(number)} {_writes(number)} {_width(number)}\n"
        f"    deps: [{_reads(number)}, shared.py]\n    outs: [{_writes(number)}]\n"
        for number in range(steps)
    ]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))


def _snakemake(folder: Path, steps: int) -> None:
    rules = [
        f'rule {_name(number)}:\n    input: source="{_reads(number)}", code="shared.py"\n    output: "{_writes(number)}"\n'
        f'    shell: "python3 shared.py {{input.source}} {{output}} {_width(number)}"\n'
        for number in range(steps)
    ]
    wanted = ", ".join(f'"{_writes(number)}"' for number in range(steps))
    (folder / "Snakefile").write_text("\n".join([f"rule all:\n    input: {wanted}\n", *rules]))


def _ploomber(folder: Path, steps: int) -> None:
    functions = ["import shared\n"]
    for number in range(steps):
        first = number % CHAIN == 0
        source = f'"{_reads(number)}"' if first else f'str(upstream["{_name(number - 1)}"])'
        head = f"def {_name(number)}(product{'' if first else ', upstream'}):"
        functions.append(f"{head}\n    shared.write(str(product), shared.smooth(shared.read({source}), {_width(number)}))\n")
    (folder / "tasks.py").write_text("\n\n".join(functions))
    tasks = "".join(f"  - source: tasks.{_name(number)}\n    product: {_writes(number)}\n" for number in range(steps))
    (folder / "pipeline.yaml").write_text(f"tasks:\n{tasks}")


MAKERS = {"ours": _ours, "dvc": _dvc, "snakemake": _snakemake, "ploomber": _ploomber}


def record_runs(
    folder: Path,  # a project whose pipeline has not run
) -> None:
    """Do the work of each step here and record it as a run of it is recorded: 200 kernels would take minutes, and what they do is not measured."""
    from mlops_nb import __version__
    from mlops_nb.files import File, find_inputs
    from mlops_nb.graph import read_graph
    from mlops_nb.hit import key_now
    from mlops_nb.plain import dump
    from mlops_nb.record import new_id, now, this_process, write_record
    from mlops_nb.settings import read_settings
    from mlops_nb.store import Store, hide
    from mlops_nb.template import all_arguments

    shared: dict = {"__name__": "shared"}
    exec(SHARED, shared)
    settings, process, given = read_settings(folder), this_process(), {}
    store = Store(settings.store)
    hide(settings.store)
    for number, step in enumerate(read_graph("chains", folder).steps):
        template, started = step.template, now()
        inputs = find_inputs(step.inputs, folder, store, given, template.name)
        key = key_now(template, {}, inputs, settings, None)
        run = settings.store / new_id(step.name, started)
        run.mkdir(parents=True)
        [source], [(output, target)] = step.inputs.values(), step.outputs.items()
        shared["write"](run / "smoothed.csv", shared["smooth"](shared["read"](folder / source), _width(number)))
        file = File(target, *store.take(run / "smoothed.csv"))
        store.lay_out(file.digest, folder / target)
        given[target] = file.digest
        executed = store.put(template.path.read_bytes())
        store.lay_out(executed, run / template.name)
        write_record(settings.store, {
            "id": run.name, "status": "succeeded", "template": template.path.relative_to(folder).as_posix(), "template_digest": template.digest,
            "step": step.name, "pipeline": "chains", "started": started, "ended": now(), "seconds": 0.1, "arguments": all_arguments(template, {}), "given": [],
            "inputs": {name: one.as_dict() for name, one in inputs.items()}, "outputs": {output: file.as_dict()}, "replaced": {}, "results": {}, "cells": [],
            "error": None, "held": None, "notebook": executed, "revision": None, "environment": None, "hardware": None, "access": None,
            "key": {"digest": key.digest, "parts": store.put(dump(key.parts)), "unseen": []}, "mlops_nb": __version__, "process": process,
        })  # fmt: skip


def _first_look(folder: Path) -> Case:
    """Every byte is read: nothing is known of the files."""

    def forget_ours() -> None:
        (folder / "runs" / "digests.sqlite").unlink(missing_ok=True)

    def forget_dvc() -> None:
        shutil.rmtree(folder / "site", ignore_errors=True)
        (folder / "data.dvc").unlink(missing_ok=True)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    floor = ("/bin/sh", "-c", f"find data -type f -print0 | xargs -0 -P {cores} -n 500 sha256sum > /dev/null")
    commands = (
        Command("sha256sum on all cores", floor, lambda printed: None),
        Command("mlops-nb status", (tool("mlops-nb"), "status"), saying("missing"), forget_ours),
        Command("dvc add --no-commit", (peer("dvc"), "add", "--no-commit", "--quiet", "data"), lambda printed: None, forget_dvc),
    )
    title = f"{FILES:,} input files of {FILE_BYTES // 1000} kB, seen for the first time (in the page cache)"
    return Case("files-first", title, folder, lambda: _make_files(folder), commands, ours="mlops-nb status", floor=commands[0].name)


def _second_look(folder: Path) -> Case:
    """No byte has to be read: nothing changed."""

    def make() -> None:
        _make_files(folder)
        make_once(folder, peer("dvc"), "add", "--no-commit", "--quiet", "data")
        make_once(folder, tool("mlops-nb"), "status")

    nothing = Command("python -c pass", (sys.executable, "-c", "pass"), lambda printed: None)
    commands = (
        nothing,
        Command("a look at each file", (sys.executable, "-c", LOOK, str(folder / "data")), lambda printed: None),
        Command("mlops-nb status", (tool("mlops-nb"), "status"), saying("missing")),
        Command("dvc status", (peer("dvc"), "status", "data.dvc"), lambda printed: None),
        Command("snakemake --dry-run", (peer("snakemake"), "--cores", "2", "--dry-run", "--quiet", "all"), lambda printed: None),
    )
    return Case("files-second", f"The same {FILES:,} files, a second time", folder, make, commands, ours="mlops-nb status", floor=nothing.name)


def _make_files(folder: Path) -> None:
    """Make a project with one step that reads all of the files."""
    if (folder / "data").exists():
        return
    install_peers("dvc", "snakemake")
    make_project(folder)
    templates = folder / "nbs" / "pipelines" / "many"
    templates.mkdir(parents=True)
    template = notebook(["from mlops_nb import Input", 'data = Input("data")', "print(data)"])
    template["cells"][1]["metadata"]["tags"] = ["parameters"]
    (templates / "10_read.ipynb").write_text(json.dumps(template))
    (folder / "runs").mkdir()
    (folder / "data").mkdir()
    for number in range(FILES):
        seed = hashlib.sha256(str(number).encode()).digest()
        (folder / "data" / f"{number:05d}.bin").write_bytes((seed * (FILE_BYTES // len(seed) + 1))[:FILE_BYTES])
    rule = f'rule count:\n    input: [f"data/{{number:05d}}.bin" for number in range({FILES})]\n    output: "count"\n    shell: "touch {{output}}"\n'
    (folder / "Snakefile").write_text('rule all:\n    input: "count"\n\n' + rule)
    (folder / "count").touch()
    make_once(folder, peer("dvc"), "init", "--quiet", "--force")
    make_once(folder, peer("dvc"), "config", "core.site_cache_dir", str(folder / "site"))
    make_once(folder, peer("dvc"), "config", "core.analytics", "false")
    make_once(folder, peer("snakemake"), "--cores", "1", "--touch", "--quiet", "all")
