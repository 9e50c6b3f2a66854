"""What is found in a file that nobody can look into."""

import numpy as np

from pipeline.formats import share
from pipeline.parity.document import Audit

STATE = {"weight": np.arange(60, dtype=np.float32).reshape(6, 10), "bias": np.linspace(0, 1, 6, dtype=np.float32)}


def test_weights_that_stand_in_a_file_are_found_wherever_they_lie(tmp_path):
    file = tmp_path / "model.bin"
    file.write_bytes(b"ab" + STATE["bias"].tobytes() + b"c" + STATE["weight"].tobytes())
    found = Audit.from_json(share.audit([file], STATE, "a native library"))
    assert found.passed
    assert found.share == 0
    assert found.in_words() == "not audited: a native library; 100.0% of the weights found in it bit for bit"


def test_one_bit_less_of_a_tensor_is_a_tensor_that_is_not_found(tmp_path):
    changed = STATE["weight"].copy()
    changed[3, 3] = np.nextafter(changed[3, 3], 99)
    file = tmp_path / "model.bin"
    file.write_bytes(changed.tobytes() + STATE["bias"].tobytes())
    assert share.audit([file], STATE, "a native library")["share"] == 60 / 66


def test_an_empty_file_holds_nothing(tmp_path):
    (tmp_path / "model.bin").touch()
    assert share.audit([tmp_path / "model.bin"], STATE, "a native library")["share"] == 1
