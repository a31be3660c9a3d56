"""Serves the small judge with `transformers serve` and compares `gavel judge` over HTTP with the judge in the process.

The server shows no log-probabilities, so only the sides are compared, per image order, wherever the judge in the process is not in two minds.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

SURE = 0.1  # distance from one half
START_SECONDS = 180


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(server, address, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).read()
            return
        except OSError:
            time.sleep(0.5)
    log.seek(0)
    sys.exit(f"the server did not start:\n{log.read()[-4000:]}")


def verdict(gavel, back_end, pair, folder):
    first, second = (os.path.join(folder, name) for name in pair["response"])
    command = [gavel, "judge", *back_end, "--template", "configs/judge/small.toml", "--json"]
    command += ["--rubric", "configs/quickstart/rubric.toml", "--prompt", pair["query"], first, second]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gavel", required=True)
    parser.add_argument("--pairs", type=int, default=12)
    arguments = parser.parse_args()
    folder = "configs/quickstart/labelled"
    with open(os.path.join(folder, "pairs.jsonl")) as lines:
        pairs = [json.loads(line) for line in lines][: arguments.pairs]

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    model = "models/tiny-judge"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with open(os.path.join(os.environ.get("TMPDIR", "/tmp"), f"serve-{port}.log"), "w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            wait_for(server, address, log)
            compared = sure = 0
            for pair in pairs:
                ours = verdict(arguments.gavel, ["--model", model], pair, folder)
                theirs = verdict(arguments.gavel, ["--endpoint", f"{address}/v1", "--model-name", model], pair, folder)
                assert theirs["spent"]["requests"] >= 2, theirs
                for own, other in zip(ours["order_probabilities"], theirs["order_probabilities"]):
                    compared += 1
                    if abs(own - 0.5) > SURE:
                        sure += 1
                        assert (own > 0.5) == (other > 0.5), f"{pair['query']}: {ours} against {theirs}"
            assert sure >= 0.8 * compared, f"only {sure} of {compared} answers are sure"
            print(f"{sure} of {compared} answers of {len(pairs)} pairs are sure, and the server gives the same")
        finally:
            server.terminate()
            server.wait()
            os.remove(log.name)


if __name__ == "__main__":
    main()
