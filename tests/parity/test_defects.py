"""Every kind of defect that the sweep plants is noticed: a mutation of each kind in two of the shipped models."""

import pytest

from benchmarks import parity_defects, shipped


@pytest.fixture(scope="module", params=["simplenet", "facenet-pnet"])
def subject(request, tmp_path_factory):
    return parity_defects.Subject(shipped.export(request.param, tmp_path_factory.mktemp(request.param)))


def test_one_mutation_of_each_kind_is_caught_or_changes_no_bit(subject):
    parity_defects.require_healthy(subject)
    found = [
        parity_defects.judge(subject, kind, mutated)[0]
        for _, kind, mutated in parity_defects.mutations(subject.exported.name, subject.exported.proto, 1, seed=1)
    ]
    assert len(found) >= 10
    assert [each for each in found if not each.caught and not each.equivalent] == []
    assert {each.kind for each in found if each.equivalent} <= parity_defects.REWIRED
