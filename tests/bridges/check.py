"""Checks that the bridges to Weights & Biases and MLflow log every figure of every step of a run, as the API gives it.

    python tests/bridges/check.py http://127.0.0.1:7441 RUN
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

# A folder needs no database beside MLflow's own small client.
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

from mlflow.tracking import MlflowClient  # noqa: E402
from wandb.proto import wandb_internal_pb2  # noqa: E402

TRACK = pathlib.Path(__file__).parents[2] / "examples" / "track"
sys.path.insert(0, str(TRACK))

from follow import steps  # noqa: E402


def bridge(script, coordinator, run, **environment):
    command = [sys.executable, TRACK / script, coordinator, run]
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=120)


def logged_by_mlflow(folder, run):
    client = MlflowClient(f"file:{folder}/mlruns")
    experiment = client.get_experiment_by_name("gavel")
    (logged,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run}'")
    figures = {}
    for name in logged.data.metrics:
        for metric in client.get_metric_history(logged.info.run_id, name):
            figures.setdefault(metric.step, {})[name] = metric.value
    return figures


def logged_by_wandb(folder):
    (file,) = pathlib.Path(folder).glob("wandb/offline-run-*/*.wandb")
    figures = {}
    for data in records_of_log(file.read_bytes(), begin=7):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.get("_step", record.history.step.num)
            figures[step] = {name: value for name, value in row.items() if not name.startswith("_")}
    return figures


def records_of_log(data, begin):
    """The records of a LevelDB log, of which a W&B file is one after its header: blocks of 32 KiB that hold parts of records,
    each behind a checksum (4 bytes), its length (2) and its place in the record (1: 1 the whole, 2 first, 3 middle, 4 last)."""
    block, record = 32 * 1024, b""
    while begin + 7 <= len(data):
        if block - begin % block < 7:
            begin += block - begin % block
            continue
        _checksum, length, place = struct.unpack_from("<IHB", data, begin)
        if place == 0:
            return
        begin += 7 + length
        record += data[begin - length : begin]
        if place in (1, 4):
            yield record
            record = b""


def main():
    coordinator, run = sys.argv[1:]
    expected = dict(steps(coordinator, run))
    assert len(expected) > 1 and "kl" in expected[1], expected
    with tempfile.TemporaryDirectory() as folder:
        bridge("mlflow_bridge.py", coordinator, run, MLFLOW_TRACKING_URI=f"file:{folder}/mlruns")
        bridge("wandb_bridge.py", coordinator, run, WANDB_MODE="offline", WANDB_DIR=folder, WANDB_SILENT="true")
        for name, logged in [("MLflow", logged_by_mlflow(folder, run)), ("W&B", logged_by_wandb(folder))]:
            assert logged == expected, f"{name} has {logged}, the API {expected}"
            print(f"{name}: {len(logged)} steps of {len(logged[1])} figures each, as the API has them")


if __name__ == "__main__":
    main()
