"""YAML → frozen models: every problem at once, each with its file, line and column."""

from __future__ import annotations

from pipeline.config.loading import load
from pipeline.config.models import (
    BackendConfig,
    BenchmarkConfig,
    Config,
    DimensionConfig,
    ExportConfig,
    InputConfig,
    LimitsConfig,
    ModelConfig,
    ParityConfig,
    ReleaseConfig,
    ToleranceConfig,
    Vocabulary,
    resolved,
)
from pipeline.config.schema import schema

__all__ = [
    "BackendConfig",
    "BenchmarkConfig",
    "Config",
    "DimensionConfig",
    "ExportConfig",
    "InputConfig",
    "LimitsConfig",
    "ModelConfig",
    "ParityConfig",
    "ReleaseConfig",
    "ToleranceConfig",
    "Vocabulary",
    "load",
    "resolved",
    "schema",
]
