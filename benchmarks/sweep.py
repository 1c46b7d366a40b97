"""24 trainings on two cores: a fork pool of plain functions, plain scripts, ours, and papermill in turn, two at a time, under Dask and DVC."""

import json
import re
import shutil
import sys
from pathlib import Path

from measure import Case, Command, Wrong, make_once, tool
from overhead import SCIENCE, clear, notebook
from peers import install_peers, peer
from ways import has_warm, knows, make_projects, projects, stop_servers

HIDDEN, SEEDS = (16, 32, 64), range(8)
TRIALS = [(hidden, seed) for hidden in HIDDEN for seed in SEEDS]

IMPORTS = f"{SCIENCE}\nimport torch\n\ntorch.set_num_threads(1)  # else two at a time fight for the cores"
PARAMETERS = "hidden: int = 16\nseed: int = 0"
TRAIN = """\
torch.manual_seed(seed)
rows = torch.randn(2000, 20)
labels = (rows[:, :1] * rows[:, 1:2] > 0).float()
model = torch.nn.Sequential(torch.nn.Linear(20, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(150):
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(rows), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"hidden={hidden} seed={seed} loss={float(loss.detach()):.4f}")"""

SCRIPT = f"import sys\n\n{IMPORTS}\n\nhidden, seed = int(sys.argv[1]), int(sys.argv[2])\n{TRAIN}\n"
POOL = f"""import multiprocessing
import sys

{IMPORTS}


def train(trial):
    hidden, seed = trial
{"".join(f"    {line}" + chr(10) for line in TRAIN.replace('print(', 'return (').splitlines())}

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print("\\n".join(pool.map(train, {TRIALS}, chunksize=1)))
"""
DASK = f"""import papermill
from distributed import Client, LocalCluster


def execute(trial):
    hidden, seed = trial
    papermill.execute_notebook("train.ipynb", f"executed/{{hidden}}-{{seed}}.ipynb", {{"hidden": hidden, "seed": seed}}, progress_bar=False)


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.gather(client.map(execute, {TRIALS}, pure=False))
"""
NOTE = """\
hidden = 16, 32, 64 and seeds 0 to 7, each about 0.2 s of training (with one thread, in every way) after the imports. Each run's loss is checked.
*No server*: ours has to start its server first, and its imports are in the time. *Warm*: the server is there. The fork pool is a plain function: no notebook, no record."""


def cases(folder: Path) -> list[Case]:
    """Return ours beside the floor, several times; and once beside each group of peers, since these take minutes."""
    return [
        _case("sweep-floor", folder / "sweep", "A sweep of 24 trainings on two cores, ours beside the floor"),
        *(_case(name, folder / "sweep", f"The same sweep: {said}", peers) for name, (said, peers) in GROUPS.items()),
    ]


OURS, RUN = "mlops-nb sweep --jobs 2", "xargs -P2 mlops-nb run"
GROUPS = {
    "sweep-papermill": ("papermill, two at a time", ("xargs -P2 papermill",)),
    "sweep-serial": ("papermill, one after another", ("papermill, one after another",)),
    "sweep-dask": ("Dask calling papermill", ("Dask calling papermill, 2 workers",)),
    "sweep-dvc": ("DVC calling papermill", ("dvc repro, papermill in 24 stages",)),
    "sweep-scripts": ("plain scripts, and ours in other ways", ("plain scripts, two at a time", f"{OURS}, cold", f"{RUN}, no server", f"{RUN}, warm")),
}


def _case(name: str, folder: Path, title: str, peers: tuple[str, ...] = ()) -> Case:
    losses: dict[tuple[int, int], str] = {}

    def make() -> None:
        if name == "sweep-dvc":
            install_peers("dvc")
        make_projects(folder)
        for place in projects(folder).values():
            _write(place)
        losses.update(_losses(make_once(folder, sys.executable, "pool.py")))  # fills the caches, too
        if len(losses) != len(TRIALS):
            raise Wrong(f"the plain functions found {len(losses)} losses")

    def check(found: str) -> None:
        if _losses(found) != losses:
            raise Wrong(f"of {len(TRIALS)} losses, {len(losses.items() & _losses(found).items())} are right")

    floor = Command("a fork pool of plain functions", (sys.executable, "pool.py"), check)
    ours = [f"{OURS}, no server", f"{OURS}, warm"] if knows("sweep") and has_warm() else []
    others = [*_ours(folder, check), *(_peers(folder, check) if peers else ())]
    commands = [floor, *(command for command in others if command.name in (*ours, *peers))]
    rounds = {"rounds": 1, "warm_up": False} if peers else {"rounds": 3}
    return Case(name, title, folder, make, tuple(commands), ours=ours[-1] if ours else commands[-1].name, floor=floor.name, note=NOTE, **rounds)


def _ours(folder: Path, check) -> list[Command]:
    """Return our sweep and, as before there was one, two `mlops-nb run` at a time."""
    found = []
    space = ("-p", f"hidden={','.join(map(str, HIDDEN))}", "-p", f"seed={SEEDS.start}:{SEEDS.stop}")
    ways = {RUN: _xargs(tool("mlops-nb"), "run.txt")}
    if knows("sweep"):
        ways = {OURS: (tool("mlops-nb"), "sweep", "train.ipynb", *space, "--jobs", "2"), **ways}
    for said, arguments in ways.items():
        for cold, place in projects(folder).items():
            beginnings = {", cold": None} if cold else {", no server": stop_servers, ", warm": None} if has_warm() else {"": None}
            for beginning, first in beginnings.items():
                found.append(Command(f"{said}{beginning}", arguments, _of_runs(place, check), _empty(place, first), folder=place))
    return found


def _empty(project: Path, first):
    """Return what deletes every run, and does something before."""

    def prepare() -> None:
        if first:
            first()
        shutil.rmtree(project / "runs", ignore_errors=True)

    return prepare


def _of_runs(project: Path, check):
    def check_runs(printed: str) -> None:
        from mlops_nb import runs

        found = runs(project)
        wrong = [run.id for run in found if run.status != "succeeded" or f"hidden={run.arguments['hidden']} seed={run.arguments['seed']} " not in _printed(run.notebook)]
        if len(found) != len(TRIALS) or wrong:
            raise Wrong(f"{len(found)} runs, of which {len(wrong)} did not do what they say")
        check("\n".join(_printed(run.notebook) for run in found))

    return check_runs


def _peers(folder: Path, check) -> list[Command]:
    executed = folder / "executed"

    def check_executed(printed: str) -> None:
        check("\n".join(_printed(path) for path in executed.glob("*.ipynb")))

    def prepare() -> None:
        clear(executed)

    def forget() -> None:
        clear(executed)
        shutil.rmtree(folder / ".dvc", ignore_errors=True)
        (folder / "dvc.lock").unlink(missing_ok=True)
        make_once(folder, peer("dvc"), "init", "--quiet", "--force")

    return [
        Command("plain scripts, two at a time", _xargs(sys.executable, "script.txt"), check, prepare),
        Command("papermill, one after another", _xargs(tool("papermill"), "papermill.txt", 1), check_executed, prepare),
        Command("xargs -P2 papermill", _xargs(tool("papermill"), "papermill.txt"), check_executed, prepare),
        Command("Dask calling papermill, 2 workers", (sys.executable, "dasked.py"), check_executed, prepare),
        Command("dvc repro, papermill in 24 stages", (peer("dvc"), "repro"), check_executed, forget),
    ]


def _xargs(command: str, lines: str, at_once: int = 2) -> tuple[str, ...]:
    """Return what runs a command with the arguments of each line of a file."""
    return ("/bin/sh", "-c", f'xargs -P {at_once} -L 1 "$0" < {lines}', command)


def _write(folder: Path) -> None:
    """Write the training in every form."""
    template = notebook([IMPORTS, PARAMETERS, TRAIN])
    template["cells"][1]["metadata"] = {"tags": ["parameters"]}
    (folder / "train.ipynb").write_text(json.dumps(template))
    for name, text in {"train.py": SCRIPT, "pool.py": POOL, "dasked.py": DASK}.items():
        (folder / name).write_text(text)
    stages = "stages:\n"
    lines: dict[str, str] = {"script.txt": "", "papermill.txt": "", "run.txt": ""}
    for hidden, seed in TRIALS:
        target = f"executed/{hidden}-{seed}.ipynb"
        papermill = f"train.ipynb {target} -p hidden {hidden} -p seed {seed}"
        lines["script.txt"] += f"train.py {hidden} {seed}\n"
        lines["papermill.txt"] += f"--no-progress-bar {papermill}\n"
        lines["run.txt"] += f"run train.ipynb -p hidden={hidden} -p seed={seed}\n"
        stages += f"  train-{hidden}-{seed}:\n    cmd: {tool('papermill')} --no-progress-bar {papermill}\n    deps: [train.ipynb]\n    outs: [{target}]\n"
    for name, text in {**lines, "dvc.yaml": stages}.items():
        (folder / name).write_text(text)


def _losses(text: str) -> dict[tuple[int, int], str]:
    return {(int(hidden), int(seed)): loss for hidden, seed, loss in re.findall(r"hidden=(\d+) seed=(\d+) loss=([\d.]+)", text)}


def _printed(path: Path) -> str:
    """Return what the cells of an executed notebook printed. Raises `Wrong` where there is none."""
    if not path.is_file():
        raise Wrong(f"it left no notebook {path.name}")
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
