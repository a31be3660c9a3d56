"""Logs a run of a coordinator to MLflow.

    pip install mlflow
    python examples/track/mlflow_bridge.py http://127.0.0.1:7441 RUN --experiment my-experiment
"""

import argparse
import os

import mlflow

from follow import steps


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coordinator", help="address of the dashboard, http://HOST:PORT")
    parser.add_argument("run", help="the run's name")
    parser.add_argument("--experiment", default="gavel")
    arguments = parser.parse_args()
    mlflow.set_experiment(arguments.experiment)
    with mlflow.start_run(run_name=arguments.run):
        for step, figures in steps(arguments.coordinator, arguments.run, 0, os.environ.get("GAVEL_TOKEN")):
            mlflow.log_metrics(figures, step=step)


if __name__ == "__main__":
    main()
