"""The core: bytes become poses."""
