"""Logs a run of a coordinator to Weights & Biases.

    pip install wandb
    python examples/track/wandb_bridge.py http://127.0.0.1:7441 RUN --project my-project
"""

import argparse
import os

import wandb

from follow import steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coordinator", help="address of the dashboard, http://HOST:PORT")
    parser.add_argument("run", help="the run's name")
    parser.add_argument("--project", default="gavel")
    arguments = parser.parse_args()
    # The same name goes on where an earlier bridge stopped.
    with wandb.init(project=arguments.project, name=arguments.run, id=arguments.run, resume="allow") as board:
        since = board.step
        for step, figures in steps(arguments.coordinator, arguments.run, since, os.environ.get("GAVEL_TOKEN")):
            board.log(figures, step=step)


if __name__ == "__main__":
    main()
