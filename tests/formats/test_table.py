"""What every format must have."""

from importlib import import_module

import pytest

from pipeline.formats.table import BUILT_IN
from pipeline.worker.start import SHARED


@pytest.mark.parametrize("module", sorted({each for format_ in BUILT_IN for each in format_.modules}))
def test_what_an_exporter_imports_is_there_and_may_be_imported_for_several_workers(module):
    name, _, function = module.partition(":")
    imported = import_module(name)
    assert not function or callable(getattr(imported, function))
    assert module.partition(".")[0] in SHARED
