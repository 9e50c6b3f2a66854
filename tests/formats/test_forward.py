"""Whatever way a network is called, its exported files take the config's inputs and give its outputs, each under its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.formats import forward
from pipeline.formats.format import FromNetwork
from pipeline.formats.table import formats
from pipeline.rebuild import calling, cases
from tests.formats.test_exporters import run
from tests.rebuild.calls import WAYS, Switched, Way, X, Y, face
from tests.rebuild.test_calling import tensors

EXPORTED = [(way, format_) for way in WAYS for format_ in way.exports]


def seeded(way):
    torch.manual_seed(0)
    return way.make().eval().requires_grad_(False)


@pytest.mark.parametrize(("way", "format_"), EXPORTED, ids=[f"{way.kind}, {format_}" for way, format_ in EXPORTED])
def test_a_file_gives_what_the_call_by_hand_gives_at_sizes_it_was_not_shown(way: Way, format_, tmp_path) -> None:
    interface = way.interface
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    exporter = formats()[format_]
    options = {"method": way.method} if format_ == "torchscript" else {}
    job = FromNetwork(
        seeded(way), interface, examples, tmp_path / exporter.file, {"name": "test", "weights_sha256": "0" * 64}
    )
    artifact = exporter.export(job, exporter.options.model_validate(options))
    for case in cases.sample(interface, seed=1, cap_elements=1000)[:3]:
        with torch.no_grad():
            wanted = way.by_hand(seeded(way), calling.tensors_from(case.inputs))
        found = run(artifact, interface, dict(case.inputs))
        assert list(found) == list(interface.outputs)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_plain_network_is_exported_as_it_is() -> None:
    module = torch.nn.Linear(4, 4)
    prepared = forward.prepare(module, face([X]), {"x": np.ones((2, 4), np.float32)})
    assert type(prepared.module) is torch.nn.Linear


def test_modules_and_parameters_keep_their_names_where_the_forward_is_replaced() -> None:
    module = Switched()
    before = list(module.state_dict()), [name for name, _ in module.named_modules()]
    given = {name: each.numpy() for name, each in tensors(face([X, Y])).items()}
    prepared = forward.prepare(module, face([X, Y]), given)
    assert type(prepared.module) is not Switched
    assert (list(prepared.module.state_dict()), [name for name, _ in prepared.module.named_modules()]) == before
    assert isinstance(prepared.module, Switched)
