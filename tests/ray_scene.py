"""A Ray of two replicas on this machine, with the application of deploy/ray, until its stdin is closed.

It runs in an environment of its own, in which Ray is installed: PYTHON -m tests.ray_scene PORT ENGINE OPTIONS
"""

from __future__ import annotations

import json
import os
import sys

import ray
from ray import serve

from deploy.ray.serve_app import Engine


def main() -> None:
    port, name, options = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        two = Engine.options(autoscaling_config=None, num_replicas=2, ray_actor_options={"num_cpus": 0.5})
        serve.run(two.bind(name, workers=1, options=options))
        sys.stdout.write("up\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
