"""Exports without an engine: each machine takes its part of the configs, and what they wrote is put together."""
