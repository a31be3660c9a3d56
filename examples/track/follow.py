"""Follows a run of a coordinator over HTTP: yields each committed step's figures once, as they come."""

import json
import time
import urllib.error
import urllib.request

PAUSE = 5.0


def steps(coordinator, run, since=0, token=None):
    """Yields (step, figures) of each step after `since`, until the run has ended. `coordinator` is http://HOST:PORT.

    Figures are numbers by name; those of a table within (`seconds`) are named `seconds/wall`. A coordinator that is away is
    waited for.
    """
    while True:
        try:
            answer = _get(f"{coordinator}/api/v1/runs/{run}/steps?since_step={since}", token)
        except (urllib.error.URLError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in (429, 503):
                raise
            time.sleep(PAUSE)
            continue
        for record in answer["steps"]:
            since = record["step"]
            yield since, dict(_numbers(record))
        if since < answer["step"]:
            continue
        if answer["phase"]["kind"] in ("finished", "stopped", "failed"):
            return
        time.sleep(PAUSE)


def _get(address, token):
    request = urllib.request.Request(address)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _numbers(table, prefix=""):
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield prefix + name, value
