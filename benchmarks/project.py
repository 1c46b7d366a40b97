"""A project to measure in: a folder under git, with settings, and past runs as the worked study leaves them."""

import json
import math
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops_nb import __version__
from mlops_nb.record import this_process, write_record

ARGUMENTS = {"batch_size": 256, "dropout": 0.1, "epochs": 60, "hidden": 128, "layers": 2, "learning_rate": 0.002, "optimizer": "adam", "weight_decay": 0.0}
SCALARS = ("macro_f1", "balanced_accuracy", "calibration_error", "train_loss", "validation_loss", "stars_used")
CURVES = ("train_loss_curve", "validation_loss_curve")
EPOCHS = 45  # values in a curve


def make_project(
    folder: Path,  # left as it is where it exists
    settings: str = "",  # more lines of settings.ini
) -> None:
    """Make an empty project. It lies under git where there is git, because a run notes the commit that it ran from."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    (folder / "settings.ini").write_text("[store]\npath = runs\n" + settings)
    (folder / ".gitignore").write_text("/runs/\n/executed/\n")
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
    try:
        for arguments in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "--no-gpg-sign", "--message", "An empty project")):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
    except FileNotFoundError:
        pass  # no git: the run notes no commit


def past_id(
    number: int,  # from 0
) -> str:
    """Return the id of a past run; the highest number is the newest."""
    return f"{_started(number):%Y%m%dT%H%M%S}-train-{number:08x}"


def _started(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)


def past_results(
    number: int,  # of the run; the same number gives the same results
) -> dict:
    """Return the results of a training run: six scalars and two curves."""
    noise = random.Random(number)
    results: dict = {name: noise.random() for name in SCALARS}
    return results | {name: [math.exp(-epoch / 10) + noise.random() / 100 for epoch in range(EPOCHS)] for name in CURVES}


def write_past_runs(
    store: Path,  # the store's folder
    count: int,
) -> None:
    """Write the records of so many training runs that succeeded."""
    process = this_process()
    for number in range(count):
        write_record(store, _record(number, process))


def _record(number: int, process: dict) -> dict:
    times = [(_started(number) + timedelta(seconds=second)).isoformat().replace("+00:00", "Z") for second in (0, 17)]
    paths = {"predictions": "data/variables/predictions.parquet", "model": "models/variables/network", "curves": "data/variables/curves.parquet"}
    return {
        "id": past_id(number),
        "status": "succeeded",
        "template": "nbs/pipelines/variables/50_train.ipynb",
        "template_digest": f"{number % 7:064x}",
        "step": "train",
        "pipeline": "variables",
        "started": times[0],
        "ended": times[1],
        "seconds": 17.0,
        "arguments": {**ARGUMENTS, "seed": number},
        "given": ["seed"],
        "inputs": {"features": {"path": "data/variables/features.parquet", "digest": f"{number % 5:064x}", "size_bytes": 396_668}},
        "outputs": {name: {"path": path, "digest": f"{number:064x}", "size_bytes": 132_631} for name, path in paths.items()},
        "results": past_results(number),
        "cells": [{"index": index, "status": "completed", "started": times[0], "seconds": 1.5} for index in range(8)],
        "error": None,
        "held": None,
        "notebook": f"{number:064x}",
        "revision": {"commit": f"{number % 11:040x}", "branch": "main", "changed": [], "left_out": [], "patch": None},
        "environment": {"digest": f"{number % 3:064x}", "python": "3.11.7", "platform": {"system": "Linux", "machine": "x86_64"}},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**34, "devices": []},
        "mlops_nb": __version__,
        "process": process,
    }


def write_past_notebooks(
    folder: Path,  # made if it is not there
    count: int,
) -> None:
    """Write the executed notebooks of the same runs, small ones, with their results as scrapbook 0.5 reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:08x}.ipynb").write_text(json.dumps(_notebook(number), indent=1))


def _notebook(number: int) -> dict:
    parameters = {**ARGUMENTS, "seed": number}
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cells = [_cell("parameters", source, ["parameters"], []), _cell("train", "print('trained')", [], [_stream("trained\n")])]
    cells += [_cell(name, f"glue({name!r}, {name})", [], [_scrap(name, value)]) for name, value in past_results(number).items()]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "papermill": {"parameters": parameters, "duration": 17.0, "exception": None},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _cell(name: str, source: str, tags: list[str], outputs: list[dict]) -> dict:
    metadata = {"tags": tags, "papermill": {"duration": 1.5, "exception": False, "status": "completed"}}
    return {"cell_type": "code", "id": name.replace("_", "-"), "metadata": metadata, "execution_count": 1, "source": source, "outputs": outputs}


def _stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text}


def _scrap(name: str, value: object) -> dict:
    scrap = {"name": name, "data": value, "encoder": "json", "version": 1}
    metadata = {"scrapbook": {"name": name, "data": True, "display": False}}
    return {"output_type": "display_data", "data": {"application/scrapbook.scrap.json+json": scrap}, "metadata": metadata}
