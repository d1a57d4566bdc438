"""Our networks and our pipeline behind other servers, each in its own environment.

`python -m benchmarks.servers.with_NAME PORT` listens on 127.0.0.1, with one worker. Servers that make batches
make them of at most eight and, where they have such a setting, do not wait for a batch to fill.
"""
