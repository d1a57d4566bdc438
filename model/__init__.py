"""LGM-Pose: the networks, their training and their export. Importing this package loads no torch."""
