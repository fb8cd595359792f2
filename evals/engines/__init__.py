"""Engines: what answers a checkpoint's requests."""
