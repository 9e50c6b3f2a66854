"""Which contestants a benchmark has."""

from pipeline.backends.variant import Variant
from pipeline.benchmark.timing import Entrant, entrants
from pipeline.config import BenchmarkConfig


def variant(name, backend="onnxruntime-cpu", **options):
    return Variant(name, backend, "onnx", required=False, options=options)


def test_with_one_number_of_threads_variants_keep_their_names():
    plain = variant("plain")
    assert entrants([plain], [2]) == [Entrant("plain", plain, 2)]


def test_with_several_every_variant_takes_part_with_each_and_is_named_by_it():
    found = entrants([variant("a"), variant("b")], [1, 2])
    assert [(each.name, each.variant.name, each.threads) for each in found] == [
        ("a, 1 thread", "a", 1), ("a, 2 threads", "a", 2), ("b, 1 thread", "b", 1), ("b, 2 threads", "b", 2),
    ]  # fmt: skip


def test_a_variant_with_threads_of_its_own_or_on_a_gpu_takes_part_once():
    own, torch_ = variant("own", intra_op_num_threads=4), variant("torch", "torchscript", threads=1)
    gpu = variant("gpu", "onnxruntime-cuda")
    assert [each.name for each in entrants([own, torch_, gpu], [1, 2])] == ["own", "torch", "gpu"]


def test_the_config_gives_one_number_several_or_the_machines():
    assert BenchmarkConfig().thread_counts(8) == [8]
    assert BenchmarkConfig(threads=2).thread_counts(8) == [2]
    assert BenchmarkConfig(threads=[4, 1, 4]).thread_counts(8) == [4, 1]
