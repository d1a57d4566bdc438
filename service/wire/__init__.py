"""Protobuf messages and their conversion."""
