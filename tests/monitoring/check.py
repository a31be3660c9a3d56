"""Loads the alert rules and the dashboard of deploy/monitoring into a real Prometheus that scrapes a real coordinator.

    python3 tests/monitoring/check.py target/debug/gavel

Needs `prometheus` and `promtool` (Debian's package prometheus). The coordinator serves the run of tests/compatibility.
"""

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
# Longer than this nothing here takes.
PATIENCE = 60.0


def main(gavel):
    subprocess.run(["promtool", "check", "config", MONITORING / "prometheus.yaml"], check=True)
    subprocess.run(["promtool", "test", "rules", MONITORING / "alerts_test.yaml"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(ROOT / "tests/compatibility/run/state", folder / "data")
        coordinator = subprocess.Popen(
            [gavel, "coordinator", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", folder / "data"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        prometheus = None
        try:
            http = json.loads(coordinator.stdout.readline())["http"]
            prometheus, address = start_prometheus(folder, urllib.parse.urlparse(http).netloc)
            check(address)
        finally:
            for process in filter(None, (prometheus, coordinator)):
                process.terminate()
                process.wait(timeout=PATIENCE)


def start_prometheus(folder, target):
    config = (MONITORING / "prometheus.yaml").read_text()
    config = config.replace("127.0.0.1:7441", target).replace("15s", "1s")
    (folder / "prometheus.yaml").write_text(config)
    shutil.copy(MONITORING / "alerts.yaml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    )
    return process, address


def check(address):
    until("the run's phase is scraped", lambda: query(address, 'gavel_coordinator_run_phase{run="compatibility"} == 1'))
    rules = [rule for group in get(address, "rules")["groups"] for rule in group["rules"]]
    written = (MONITORING / "alerts.yaml").read_text().count("- alert:")
    assert len(rules) == written, f"{len(rules)} rules are loaded, {written} are written"
    for rule in rules:
        file, section = rule["annotations"]["runbook"].split("#")
        assert f"### {section.replace('-', ' ')}\n" in (ROOT / file).read_text().lower(), f"{rule['name']}: {section}"
    until("every rule is evaluated", lambda: all(rule_health(address)))
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$run", ".*")
            query(address, expression)
    # What is always there, whatever a run does.
    for expression in ("gavel_coordinator_units", "gavel_coordinator_build_info", "gavel_coordinator_leads == 1"):
        assert query(address, expression), f"{expression} has no value"
    print(f"{len(rules)} rules and {len(dashboard['panels'])} panels are understood")


def rule_health(address):
    for group in get(address, "rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] != "err", rule
            yield rule["health"] == "ok"


def query(address, expression):
    return get(address, "query?" + urllib.parse.urlencode({"query": expression}))["result"]


def get(address, what):
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{what}: {error.read().decode()}") from error


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1])
