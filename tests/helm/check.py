"""Renders the chart for each file of values in its ci/ and for none, and checks the objects.

    python tests/helm/check.py helm target/debug/gavel

Each object is validated against the schemas of the oldest and the newest Kubernetes that the chart is for, keys that no schema knows refused.
Then come the promises that no schema holds: secrets, probes, the time to drain, selectors, and that the program takes each argument.
"""

import copy
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import jsonschema
import kubernetes_validate
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "gavel"
KUBERNETES = ("1.27.0", "1.37.0")
# Kinds that come with an operator of their own.
OPERATORS = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}
ROLES = ("sampler", "judge", "trainer")
# Seconds that the program takes to end, as docs/reliability.md and docs/storage.md promise: a worker's unit; open calls and a locked file.
DRAIN = {"coordinator": 3 + 10, **{role: 10 for role in ROLES}}


def main(helm, gavel):
    files = [None, *sorted((CHART / "ci").glob("*-values.yaml"))]
    checked = 0
    for file in files:
        subprocess.run([helm, "lint", "--strict", "--quiet", CHART, *values(file)], check=True)
        for version in KUBERNETES:
            objects = render(helm, file, version)
            for one in objects:
                validate(one, version)
            checked += len(objects)
        name = file.name if file else "values.yaml"
        try:
            promises(objects, gavel)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    refusals(helm)
    metric(helm, gavel)
    print(f"{len(files)} files of values, {checked} objects")


def values(file):
    return ["--values", file] if file else []


def helm_template(helm, *arguments):
    command = [helm, "template", "gavel", CHART, "--namespace", "ml", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def render(helm, file, version, *more):
    rendered = helm_template(helm, "--kube-version", version, *values(file), *more)
    assert rendered.returncode == 0, rendered.stderr
    return [one for one in yaml.safe_load_all(rendered.stdout) if one]


def validate(one, version):
    model = OPERATORS.get(one["kind"])
    try:
        if model:
            jsonschema.validate(one, strict(model.model_json_schema()))
        else:
            kubernetes_validate.validate(one, version, strict=True)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise AssertionError(f"{one['kind']} {one['metadata']['name']}, {where}: {error.message}") from error


def strict(schema):
    """The schema, but of an object that lists its keys it takes no other."""
    schema = copy.deepcopy(schema)

    def close(node):
        if isinstance(node, dict):
            if "properties" in node:
                node.setdefault("additionalProperties", False)
            for child in node.values():
                close(child)
        elif isinstance(node, list):
            for child in node:
                close(child)

    close(schema)
    return schema


def promises(objects, gavel):
    workloads = [one for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
    pods = {}
    for one in workloads:
        template = one["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert selects(one["spec"]["selector"]["matchLabels"], labels), f"{one['metadata']['name']} does not select its pods"
        pods[labels["app.kubernetes.io/component"]] = (labels, template["spec"])
    assert set(pods) == {"coordinator", *ROLES}, f"workloads are {set(pods)}"

    assert not [one for one in objects if one["kind"] == "Secret"], "a secret is part of the chart"
    for role, (_, pod) in pods.items():
        (container,) = pod["containers"]
        security(pod, container)
        volumes(pod, container)
        assert pod["terminationGracePeriodSeconds"] > DRAIN[role], f"{role}: killed before it has drained"
        probes = [container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")]
        if container.get("ports"):
            assert all(probes), f"{role}: a port without probes"
            paths = [probe["httpGet"]["path"] for probe in probes]
            assert paths == ["/healthz", "/healthz", "/readyz"], f"{role}: {paths}"
            encrypts = any(argument.startswith("--tls-cert") for argument in container["args"])
            schemes = {probe["httpGet"]["scheme"] for probe in probes}
            assert schemes == {"HTTPS" if encrypts else "HTTP"}, f"{role}: {schemes}"
        understood(gavel, container)

    standby(workloads)
    reached(objects, pods)


def security(pod, container):
    assert pod["automountServiceAccountToken"] is False
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True and user["seccompProfile"]["type"] == "RuntimeDefault"
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in (ROOT / "deploy/Dockerfile").read_text().splitlines()
    # Volumes and secrets are of this group; others of the machine read nothing.
    assert user["fsGroup"] == user["runAsGroup"]
    rights = container["securityContext"]
    assert rights == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }, rights


def volumes(pod, container):
    """What is mounted is there, what is there is mounted, and secrets are files for the group alone."""
    there = {volume["name"] for volume in pod["volumes"]}
    if container["args"][0] == "coordinator" and any(argument.startswith("--data") for argument in container["args"]):
        there.add("data")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == there, f"mounted {mounted}, there {there}"
    for volume in pod["volumes"]:
        assert "hostPath" not in volume, f"{volume['name']} is a folder of the node"
        if "secret" in volume and volume["name"] in ("tls", "tokens", "authority", "token"):
            assert volume["secret"]["defaultMode"] == 0o440, volume
        if volume["name"] == "authority":
            assert len(volume["secret"]["items"]) == 1, "workers are given more than the authority"
    # Each file that an argument or a variable names lies on a volume.
    places = [mount["mountPath"] for mount in container["volumeMounts"]]
    said = [argument.partition("=")[2] for argument in container["args"]]
    said += [variable.get("value", "") for variable in container.get("env", [])]
    for path in (text for text in said if text.startswith("/")):
        assert any(path == place or path.startswith(place + "/") for place in places), f"{path} is on no volume"


def understood(gavel, container):
    """The program itself reads the arguments; --help behind them keeps it from doing anything."""
    told = subprocess.run([gavel, *container["args"], "--help"], capture_output=True, text=True)
    assert told.returncode == 0, f"{container['args']}: {told.stderr}"
    help = " ".join(told.stdout.split())
    for variable in container.get("env", []):
        name = variable["name"]
        if name.startswith("GAVEL_"):
            assert f"[env: {name}=" in help, f"{container['name']} knows no {name}"
    assert not re.search(r"gavel_[0-9a-f]{16}", json.dumps(container)), "a token stands in the clear"


def standby(workloads):
    """Coordinators that stand by are never ready: neither an update nor a SQLite file may wait for a second one."""
    (coordinator,) = (one for one in workloads if one["spec"]["template"]["spec"]["containers"][0]["args"][0] == "coordinator")
    arguments = coordinator["spec"]["template"]["spec"]["containers"][0]["args"]
    if any(argument.startswith("--ledger") for argument in arguments):
        assert coordinator["kind"] == "Deployment" and coordinator["spec"]["strategy"] == {"type": "Recreate"}
    else:
        assert coordinator["kind"] == "StatefulSet" and coordinator["spec"]["replicas"] <= 1


def reached(objects, pods):
    """Services, budgets, policies, monitors and scalers are for pods and workloads that are there."""
    by_kind = {}
    for one in objects:
        by_kind.setdefault(one["kind"], []).append(one)

    def chosen(selector):
        return {role for role, (labels, _) in pods.items() if selects(selector, labels)}

    services = {one["metadata"]["name"]: one for one in by_kind["Service"]}
    for name, service in services.items():
        assert chosen(service["spec"]["selector"]) == {"coordinator"}, f"service {name}"
    (container,) = pods["coordinator"][1]["containers"]
    for role in ROLES:
        (worker,) = pods[role][1]["containers"]
        (connect,) = (argument for argument in worker["args"] if argument.startswith("--connect="))
        scheme, host, port = re.fullmatch(r"--connect=(https?)://([^:]+):(\d+)", connect).groups()
        ports = {port["name"]: port["port"] for port in services[host]["spec"]["ports"]}
        assert ports["grpc"] == int(port), f"{role} dials {port}"
        assert (scheme == "https") == any(argument.startswith("--tls-cert") for argument in container["args"])
        assert f"--allow-host={host}" in container["args"]

    for budget in by_kind.get("PodDisruptionBudget", []):
        roles = chosen(budget["spec"]["selector"]["matchLabels"])
        assert len(roles) == 1 and budget["metadata"]["name"].endswith(roles.pop()), budget["metadata"]["name"]
    for policy in by_kind.get("NetworkPolicy", []):
        assert len(chosen(policy["spec"]["podSelector"]["matchLabels"])) == 1
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    if "NetworkPolicy" in by_kind:
        covered = set().union(*(chosen(one["spec"]["podSelector"]["matchLabels"]) for one in by_kind["NetworkPolicy"]))
        assert covered == set(pods), f"no policy for {set(pods) - covered}"
    for monitor in by_kind.get("ServiceMonitor", []):
        selector = monitor["spec"]["selector"]["matchLabels"]
        matched = [name for name, service in services.items() if selects(selector, service["metadata"]["labels"])]
        assert len(matched) == 1, f"the monitor scrapes {matched}"
    names = {f"gavel-{role}" for role in ROLES} | {f"fleet-{role}" for role in ROLES}
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in by_kind.get("HorizontalPodAutoscaler", []) + by_kind.get("ScaledObject", [])}
    assert scaled <= names
    for deployment in by_kind["Deployment"]:
        name = deployment["metadata"]["name"]
        assert ("replicas" in deployment["spec"]) == (name not in scaled), f"{name}: two say how many there are"


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def refusals(helm):
    """What must not be rendered, each with a word of the reason."""
    stores = ["--set", "coordinator.storage.kind=stores", "--set", "coordinator.storage.stores.blobs=s3://b/p"]
    for reason, arguments in {
        "ledger": [*stores, "--set", "coordinator.storage.stores.ledger=postgres://gavel:hunter2@db/gavel"],
        "has to be set": stores,
        "security.insecure": ["--set", "security.tokens.enabled=false"],
        "replicas": ["--set", "coordinator.replicas=2"],
        "terminationGracePeriodSeconds": ["--set", "workers.judge.terminationGracePeriodSeconds=5"],
        "judgee": ["--set", "workers.judgee.replicas=2"],
        "env": ["--set", "workers.judge.env[0].name=GAVEL_TOKEN,workers.judge.env[0].value=gavel_0"],
        "extraArgs": ["--set", "coordinator.extraArgs={--ledger=postgres://gavel:hunter2@db/gavel}"],
    }.items():
        refused = helm_template(helm, *arguments)
        assert refused.returncode != 0, f"accepted: {arguments}"
        assert reason in refused.stderr, f"{arguments}: {refused.stderr}"


def metric(helm, gavel):
    """What the scalers ask for is what a coordinator shows, and Prometheus understands the question."""
    objects = render(helm, CHART / "ci" / "gpu-values.yaml", KUBERNETES[-1])
    (scaler,) = (one for one in objects if one["kind"] == "HorizontalPodAutoscaler")
    asked = scaler["spec"]["metrics"][0]["external"]["metric"]
    shown = scrape(gavel)
    labels = asked["selector"]["matchLabels"]
    (state,) = asked["selector"]["matchExpressions"]
    for value in state["values"]:
        wanted = {**labels, state["key"]: value}
        lines = [line for line in shown if line.startswith(asked["name"] + "{")]
        assert any(all(f'{key}="{text}"' in line for key, text in wanted.items()) for line in lines), f"no {wanted} in {lines}"
    for file in (CHART / "ci").glob("*-values.yaml"):
        for one in render(helm, file, KUBERNETES[-1]):
            if one["kind"] == "ScaledObject":
                query = one["spec"]["triggers"][0]["metadata"]["query"]
                assert asked["name"] + "{" in query, query
                is_promql(query)


def scrape(gavel):
    """The metrics of a coordinator that has a run."""
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        shutil.copytree(ROOT / "tests/compatibility/run/state", data)
        command = [gavel, "coordinator", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data]
        coordinator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            http = json.loads(coordinator.stdout.readline())["http"]
            with urllib.request.urlopen(f"{http}/metrics", timeout=60) as answer:
                return answer.read().decode().splitlines()
        finally:
            coordinator.terminate()
            coordinator.wait(timeout=60)


def is_promql(query):
    rules = {"groups": [{"name": "scalers", "rules": [{"record": "asked", "expr": query}]}]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(rules, file)
        file.flush()
        subprocess.run(["promtool", "check", "rules", file.name], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
