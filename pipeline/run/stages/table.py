"""The stages of an export, in order: the one place where the rooms below meet.

What takes long is kept in the cache under everything it depends on, so that a run that was stopped goes on where it was, and
one with a changed config makes only what the change touches.
"""

from __future__ import annotations

from pipeline.run.stages.exporting import EXPORT
from pipeline.run.stages.proving import PROVE
from pipeline.run.stages.releasing import RELEASE
from pipeline.run.stages.sampling import SAMPLE
from pipeline.run.stages.timing import TIME

STAGES = (SAMPLE, EXPORT, PROVE, TIME, RELEASE)
