"""The two front ends: REST and gRPC."""
