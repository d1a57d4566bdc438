"""A Ray cluster of several nodes on this machine with the service on it, driven by lines on standard input.

`python -m tests.deploy.ray_cluster WEIGHTS HTTP_PORT GRPC_PORT` answers each line with how many replicas run:
`replicas` does nothing else, `kill` cuts the power of a node, `add` brings one. The end of input ends it.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# a busy machine is slow, not broken
os.environ |= {
    "PYTHONPATH": os.getcwd(),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.config import HTTPOptions, gRPCOptions

from deploy.ray.application import GRPC_SERVICER_FUNCTIONS, Arguments, build

_NODE = {"object_store_memory": 100 * 2**20}
_REPLICAS = 2


def start(weights: str, http_port: int, grpc_port: int) -> tuple[Cluster, list[Any]]:
    """A cluster whose head runs the proxy and whose other nodes have a replica each."""
    cluster = Cluster(
        initialize_head=True, head_node_args={**_NODE, "num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1, **_NODE) for _ in range(_REPLICAS)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=GRPC_SERVICER_FUNCTIONS),
    )
    arguments = Arguments(
        num_cpus=0.5,
        min_replicas=_REPLICAS,
        max_replicas=_REPLICAS,
        max_replicas_per_node=1,
        settings={"weights": weights},
    )
    serve.run(build(arguments))
    return cluster, nodes


def replicas() -> int:
    """The number of running replicas."""
    states = serve.status().applications["default"].deployments["pose"].replica_states
    return int(states.get("RUNNING", 0))


def cut_power(cluster: Cluster, node: Any) -> None:
    """Kill every process of a node, first those that answer calls."""
    (raylet,) = node.all_processes["raylet"]
    for children in Path(f"/proc/{raylet.process.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def main() -> None:
    """See the module."""
    weights, http_port, grpc_port = sys.argv[1:]
    cluster, nodes = start(weights, int(http_port), int(grpc_port))
    tell(replicas())
    for line in sys.stdin:
        match line.strip():
            case "kill":
                cut_power(cluster, nodes.pop())
            case "add":
                nodes.append(cluster.add_node(num_cpus=1, **_NODE))
        tell(replicas())
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def tell(count: int) -> None:
    """Answer a line."""
    print(json.dumps({"replicas": count}), flush=True)


if __name__ == "__main__":
    main()
