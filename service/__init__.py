"""The pose estimation service."""
