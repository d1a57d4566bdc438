"""The networks: sessions, detector, pose, pipeline. No asyncio, no server."""
