"""Every config is in one part of a split, the same whoever splits; the parts are even, and each leaves a record."""

import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.fleet.shards.shard import Record, take

CONFIG = "name: {name}\nmodel: {{weights: {name}.pth}}\n"


def write(folder, sizes):
    """Write a config for each name, with a weights file of so many bytes (sparse); None: there is no such file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / f"{name}.yaml").write_text(CONFIG.format(name=name))
        if size is not None:
            with (folder / f"{name}.pth").open("wb") as file:
                file.truncate(size)
    return [folder / f"{name}.yaml" for name in sizes]


def parts(configs, count, **more):
    return [set(take(configs, f"{index}/{count}", **more).configs) for index in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_config_is_in_exactly_one_part_whatever_the_order_and_wherever_the_checkout_lies(tmp_path, count):
    sizes = {f"net-{index}": random.Random(index).choice([None, 10, 10**8, 10**9]) for index in range(25)}
    configs = write(tmp_path / "here", sizes)
    elsewhere = write(tmp_path / "some" / "other" / "place", sizes)
    found = parts(configs, count)
    assert sorted(name for part in found for name in part) == sorted(f"{name}.yaml" for name in sizes)
    random.Random(1).shuffle(elsewhere)
    assert parts(elsewhere, count) == found


def test_parts_are_balanced_by_the_weights_of_their_configs(tmp_path):
    configs = write(tmp_path, {"huge": 4 * 10**9, **{f"small-{index}": 10**6 for index in range(9)}})
    assert {"huge.yaml"} in parts(configs, 3)
    assert sorted(map(len, parts(configs, 3))) == [1, 4, 5]
    assert sorted(map(len, parts(write(tmp_path / "unknown", dict.fromkeys("abcdefgh")), 4))) == [2, 2, 2, 2]


def test_the_weights_of_what_is_extended_and_overridden_count(tmp_path):
    write(tmp_path, {"base": 4 * 10**9, "a": 1, "b": 1, "c": 1})
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nname: child\n")
    configs = [tmp_path / f"{name}.yaml" for name in ("a", "b", "c", "child")]
    assert {"child.yaml"} in parts(configs, 2)
    assert sorted(map(len, parts(configs, 2, overrides=["model.weights=none.pth"]))) == [2, 2]


def test_configs_of_one_name_in_two_folders_are_two_and_one_given_twice_is_one(tmp_path, monkeypatch):
    configs = [*write(tmp_path / "one", {"net": 1}), *write(tmp_path / "two", {"net": 1})]
    monkeypatch.chdir(tmp_path)
    found = parts([*configs, Path("one/net.yaml"), Path("two/../one/net.yaml")], 2)
    assert found == [{"one/net.yaml"}, {"two/net.yaml"}]


@pytest.mark.parametrize(
    "wanted", ["", "0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "a/b", "1/99999", " 1/2", "1/2\n", "٣/٥"]
)
def test_a_part_that_there_is_not_is_refused(tmp_path, wanted):
    with pytest.raises(InputError, match="names no part of a whole") as caught:
        take(write(tmp_path, {"net": 1}), wanted)
    assert "--shard 1/5" in caught.value.hint


def test_an_empty_part_is_no_error_says_so_and_leaves_a_record(tmp_path, weighbridge):
    configs = write(tmp_path, {"net": 1})
    done = weighbridge("export", *configs, "--shard", "2/2", "--out", tmp_path / "out", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"runs": []})
    assert "shard 2 of 2: none of 1 configs is in it" in done.err
    record = Record.read(tmp_path / "out" / "shard-2-of-2.json")
    assert (record.ended, record.runs, dict(record.split)) == (True, (), {"net.yaml": 1})
    assert weighbridge("export", *configs, "--shard", "2/2", "--out", tmp_path / "out").code == 0


def test_a_part_exports_its_own_configs_alone_and_records_what_became_of_them(built, tmp_path, weighbridge):
    out = shutil.copytree(built.parent.parent, tmp_path / "out")
    write(tmp_path / "configs", {"broken": 10**9})
    configs = ["configs/simplenet.yaml", tmp_path / "configs" / "broken.yaml"]
    first = weighbridge("export", *configs, "--shard", "1/2", "--out", out, "--no-benchmark", "--json")
    second = weighbridge("export", *configs, "--shard", "2/2", "--out", out, "--no-benchmark", "--json")
    runs = [json.loads(each.out)["runs"] for each in (first, second)]
    assert [len(each) for each in runs] == [1, 1]
    assert (runs[1][0]["release"], first.code, second.code) == (
        str(built).replace(str(built.parent.parent), str(out)),
        2,
        0,
    )
    broken, whole = (Record.read(out / f"shard-{index}-of-2.json").runs[0] for index in (1, 2))
    assert (broken.name, broken.version, broken.exit_code) == ("broken", None, 2)
    assert broken.config.endswith("configs/broken.yaml")
    assert "architecture" in broken.error
    assert (whole.name, whole.version, whole.exit_code, whole.error) == ("simplenet", built.name, 0, None)


def test_a_part_that_is_stopped_leaves_a_record_that_says_so(tmp_path, weighbridge, monkeypatch):
    from pipeline.run import export

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "export_several", stop)
    done = weighbridge("export", *write(tmp_path, {"net": 1}), "--shard", "1/1", "--out", tmp_path / "out")
    assert done.code == 130
    assert not Record.read(tmp_path / "out" / "shard-1-of-1.json").ended
