"""YAML → frozen models: every problem at once, each with its file, line and column."""

from __future__ import annotations

from pipeline.config.loading import load
from pipeline.config.models import BenchmarkConfig, Config, Vocabulary, resolved
from pipeline.config.schema import schema

__all__ = ["BenchmarkConfig", "Config", "Vocabulary", "load", "resolved", "schema"]
