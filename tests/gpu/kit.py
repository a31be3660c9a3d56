"""What run.sh does; see there."""

import argparse
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KIT = Path(__file__).resolve().parent / "bin"
PARTS = ("machine", "goldens", "runs", "sizes", "step", "exchange")
# A configuration, a number format, and what else is set.
RUNS = {
    "flux f32": ("quickstart.toml", "f32", {}),
    "flux bf16": ("quickstart.toml", "bf16", {}),
    "flux fp8": ("quickstart.toml", "bf16", {"model.quantization": "fp8"}),
    "flux nf4": ("quickstart.toml", "bf16", {"model.quantization": "nf4"}),
    "flux shared": ("quickstart.toml", "bf16", {"fleet.share_weights": "true"}),
    "qwen f32": ("quickstart-edit.toml", "f32", {}),
    "qwen bf16": ("quickstart-edit.toml", "bf16", {}),
    "qwen nf4": ("quickstart-edit.toml", "bf16", {"model.quantization": "nf4"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, default=2, help="of each run")
    parser.add_argument("--sizes", nargs="+", default=["transformer", "adapted", "training", "checkpointed", "t5", "vae", "judge"])
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], help="of the sizes; fp8 and nf4 too")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the step's configuration")
    parser.add_argument("--bound", type=int, default=300, help="seconds that a program may take; the sizes twice as many")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    report = {"device": a.device, "date": time.strftime("%Y-%m-%d")}
    for part in a.parts:
        start = time.monotonic()
        report[part] = globals()[part](a)
        report[part]["seconds"] = round(time.monotonic() - start, 1)
        (a.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{part}: {json.dumps(report[part])}", flush=True)
    return int(any(report[part].get("failed") for part in a.parts))


def is_gpu(a: argparse.Namespace) -> bool:
    return a.device.startswith("cuda")


def call(command: list, log: Path, environment: dict | None = None, bound: int = 60) -> tuple[int, str]:
    """Runs a program from the repository's folder. Returns how it ended, 124 where it took too long, and what it printed."""
    with log.open("w+") as output:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | (environment or {}), stdout=output, stderr=subprocess.STDOUT, timeout=bound
            ).returncode
        except subprocess.TimeoutExpired:
            done = 124
        output.seek(0)
        return done, output.read()


def machine(a: argparse.Namespace) -> dict:
    found = {"gavel": call([KIT / "gavel", "--version"], a.out / "version.log")[1].strip()}
    if is_gpu(a):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
        found["gpus"] = call(query, a.out / "smi.log")[1].strip().splitlines()
    done, text = call([KIT / "gavel", "doctor", "configs/quickstart.toml", *placed(a, "bf16")], a.out / "doctor.log")
    return found | {"doctor": done, "failed": [] if done == 0 else text.splitlines()[-6:]}


def goldens(a: argparse.Namespace) -> dict:
    """The golden tests, with the code of GPUs on the device in float32 and bfloat16."""
    environment = {"GAVEL_ROOT": str(ROOT), "RUST_BACKTRACE": "0"}
    if is_gpu(a):
        environment["GAVEL_TEST_DEVICE"] = a.device
    results = {"passed": 0, "failed": []}
    done, text = call([KIT / "models", "--test-threads=4", "golden_", "vlm_generation::"], a.out / "goldens.log", environment, 2 * a.bound)
    results["passed"] += len(re.findall(r"^test .* \.\.\. ok$", text, re.MULTILINE))
    for test, reason in re.findall(r"^thread '([^']*)'.* panicked at [^\n]*\n([^\n]*)", text, re.MULTILINE):
        results["failed"].append(f"{test}: {reason[:300]}")
    if done != 0 and not results["failed"]:
        results["failed"].append(f"the golden tests ended with {done}: {text[-300:]}")
    return results


def placed(a: argparse.Namespace, dtype: str) -> list[str]:
    settings = {"model.device": a.device, "judge.device": a.device, "model.dtype": dtype, "judge.dtype": dtype}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def adapters(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights that a run has exported."""
    files = sorted(folder.glob("adapter/*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def runs(a: argparse.Namespace) -> dict:
    """Whole runs: audited, verified, and the same bytes from another fleet with other batches."""
    results = {"failed": []}
    for name in a.runs:
        config, dtype, more = RUNS[name]
        result = results[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            common = ["--set", f"run.steps={a.steps}", "--set", "prompts.per_step=8", *placed(a, dtype)]
            common += [word for key, value in more.items() for word in ("--set", f"{key}={value}")]
            fleets = {
                "one": ["--set", "sampling.batch=8"],
                "many": ["--set", "sampling.batch=3", "--samplers", "2", "--trainers", "2"],
            }
            digests = {}
            for fleet, words in fleets.items():
                out, log = Path(folder) / fleet, a.out / f"run-{name}-{fleet}.log".replace(" ", "-")
                command = [KIT / "gavel", "run", f"configs/{config}", "--out", out, *common, *words]
                start = time.monotonic()
                done, text = call(command, log, bound=a.bound)
                result[f"{fleet} seconds"] = round(time.monotonic() - start, 1)
                if done != 0:
                    results["failed"].append(f"{name} {fleet}: ended with {done}: {text[-600:]}")
                    break
                digests[fleet] = adapters(out)
            else:
                result["adapters"] = digests["one"]
                if not digests["one"] or digests["one"] != digests["many"]:
                    results["failed"].append(f"{name}: the adapter depends on the fleet")
                for check in ("audit", "verify"):
                    log = a.out / f"{check}-{name}.log".replace(" ", "-")
                    done, text = call([KIT / "gavel", check, Path(folder) / "many"], log, bound=a.bound)
                    result[check] = text.strip().splitlines()[-1:]
                    if done != 0:
                        results["failed"].append(f"{name} {check}: ended with {done}: {text[-600:]}")
    return results


def sizes(a: argparse.Namespace) -> dict:
    """All of FLUX.1-dev and a judge with random weights, beside PyTorch; a few blocks of each where there is no GPU."""
    command = [sys.executable, "benchmarks/real_sizes.py", "--bench", str(KIT / "real_sizes"), "--dtypes", *a.dtypes]
    command += ["--device", a.device.split(":")[0], "--json", a.out.resolve() / "sizes.json", "--parts", *a.sizes]
    command += ["--threads", str(os.cpu_count())] if is_gpu(a) else []
    command += ["--whole", "--repeats", "5", "--rounds", "1"] if is_gpu(a) else ["--repeats", "1", "--rounds", "1"]
    done, text = call(command, a.out / "sizes.log", bound=2 * a.bound)
    return {"table": text.splitlines(), "failed": [] if done == 0 else [f"ended with {done}"]}


JUDGE_BEHIND_A_SERVER = """[judge]
family = "openai"
endpoint = "http://127.0.0.1:1/v1"
model = "rule"
template = "judge/ranking.toml"
rubric = "flux-dev/rubric.toml"
concurrency = 4

"""


class LargerPicture(http.server.BaseHTTPRequestHandler):
    """Answers like a chat server that is asked by configs/judge/ranking.toml, and prefers the picture of more bytes.

    A rule and no judge: it decides every pair, so that a step on random weights trains on all of them. What is learnt means nothing.
    """

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        contents = [message["content"] for message in request["messages"]]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        first, second = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        rank = [1, 2] if (len(first), first) > (len(second), second) else [2, 1]
        answer = json.dumps({"reason": "More bytes.", "rank": rank})
        reply = {"choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class MemoryWatch:
    """The most memory of the first GPU that was in use, looked at twice a second."""

    def __enter__(self) -> "MemoryWatch":
        query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop-ms=500"]
        self.program = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.program.terminate()
        self.most = max((int(line) for line in self.program.communicate()[0].split() if line.isdigit()), default=0)


def step(a: argparse.Namespace) -> dict:
    """A step of configs/flux-dev.toml with its own sizes: weights are random, a rule stands for the judge, and the tokenizers are small."""
    if not is_gpu(a):
        return {"left out": a.device, "failed": []}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LargerPicture)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "FLUX.1-dev", Path(folder) / "run"
        shutil.copytree(ROOT / "models/tiny-flux", model)
        for part in ("transformer", "text_encoder", "text_encoder_2", "vae"):
            shutil.rmtree(model / part)
        write = [sys.executable, "benchmarks/real_sizes.py", "--write", model, "bf16", "cuda", "whole"]
        done, text = call([*write, "transformer", "clip", "t5", "vae"], a.out / "step-weights.log", bound=a.bound)
        if done != 0:
            return {"failed": [f"the weights: ended with {done}: {text[-600:]}"]}
        settings = {"run.steps": 1, "prompts.per_step": 4, "model.path": model, "fleet.gpus": "[0]"}
        settings |= {"evaluation.prompts": 1, "evaluation.subset": 1}
        # The file's keys for a judge of its own have no meaning for one behind a server.
        config = re.sub(r"(?ms)^\[judge\]$.*?(?=^\[)", JUDGE_BEHIND_A_SERVER, (ROOT / "configs/flux-dev.toml").read_text())
        shutil.copytree(ROOT / "configs", Path(folder) / "configs")
        (Path(folder) / "configs/flux-dev.toml").write_text(config)
        settings |= {"judge.endpoint": f"http://127.0.0.1:{server.server_port}/v1"}
        words = [word for setting in (*(f"{key}={value}" for key, value in settings.items()), *a.set) for word in ("--set", setting)]
        start = time.monotonic()
        run = [KIT / "gavel", "run", Path(folder) / "configs/flux-dev.toml", "--out", out, *words, "--log-format", "json"]
        with MemoryWatch() as watch:
            done, text = call(run, a.out / "step.log", bound=3 * a.bound)
        result = {"run seconds": round(time.monotonic() - start, 1), "most memory in use, MiB": watch.most, "failed": []}
        if done != 0:
            return result | {"failed": [f"ended with {done}: {text[-900:]}"]}
        result["metrics"] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        for check in ("audit", "verify"):
            start = time.monotonic()
            done, text = call([KIT / "gavel", check, out], a.out / f"step-{check}.log", bound=2 * a.bound)
            result[check] = [*text.strip().splitlines()[-1:], f"{time.monotonic() - start:.1f} s"]
            if done != 0:
                result["failed"].append(f"{check}: ended with {done}: {text[-600:]}")
        return result


def exchange(a: argparse.Namespace) -> dict:
    """A run whose two trainers exchange their sums by NCCL, against one whose trainers use blobs; needs two GPUs."""
    gpus = call(["nvidia-smi", "--list-gpus"], a.out / "gpus.log")[1].count("GPU ") if is_gpu(a) else 0
    if gpus < 2:
        return {"left out": f"{gpus} GPUs", "failed": []}
    digests, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("blobs", "nccl"):
            out = Path(folder) / kind
            command = [KIT / "gavel", "run", "configs/quickstart.toml", "--out", out, *placed(a, "bf16")]
            command += ["--set", f"run.steps={a.steps}", "--set", "prompts.per_step=8", "--set", f"trainer.exchange={kind}"]
            done, text = call([*command, "--set", "fleet.gpus=[0,1]", "--trainers", "2"], a.out / f"exchange-{kind}.log", bound=a.bound)
            if done != 0:
                failed.append(f"{kind}: ended with {done}: {text[-600:]}")
            digests[kind] = adapters(out)
    if not failed and (not digests["blobs"] or digests["blobs"] != digests["nccl"]):
        failed.append("the adapter depends on the exchange")
    return {"adapters": digests, "failed": failed}


if __name__ == "__main__":
    sys.exit(main())
