"""Our networks and our pipeline behind other servers, each run in an environment of its own.

`python -m benchmarks.servers.with_NAME PORT` listens on 127.0.0.1: one worker, batches of at most eight where
the server makes batches, and no waiting for a batch to fill where it lets itself be told.
"""
