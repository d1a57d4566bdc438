"""Messages and stubs generated from proto/pose.proto by `make proto`."""
