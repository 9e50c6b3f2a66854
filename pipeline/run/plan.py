"""What a run needs, checked before any work starts and without torch: config, architecture, weights file, backends."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backends.table import backends
from pipeline.backends.variant import Variant
from pipeline.benchmark import machine
from pipeline.config import Vocabulary, load
from pipeline.config.labels import labels
from pipeline.errors import ConfigError, DigestError, UnavailableError, WeighbridgeError
from pipeline.formats.table import formats
from pipeline.interface import (
    Dimension,
    InputSpec,
    Interface,
    Preprocessing,
    formula_bounds,
    free_dimensions,
    ordered_dimensions,
)
from pipeline.rebuild import objects, trust
from pipeline.rebuild.cases import allowed
from pipeline.rebuild.network import Network
from pipeline.release import bundle, signing
from pipeline.run import precisions, sharing
from pipeline.run.slots import Slots
from pipeline.storage.cache import Cache
from pipeline.storage.store import sweep
from pipeline.weights import files, read, remote
from pipeline.weights.verified import verified_as, verify
from pipeline.worker.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pipeline.config import Config
    from pipeline.config.inputs import InputConfig, PreprocessConfig
    from pipeline.rebuild.trust import Located
    from pipeline.run.sharing import SharedCache
    from pipeline.weights.header import Header
    from pipeline.weights.verified import Verified
    from pipeline.worker.runner import Runner


RESULTS = Path(".cache", "results")

MEMORY_SHARE = 0.8
"""The part of the memory that is free at the beginning which builds may plan with."""
AT_ONCE = 3
"""How many processes of a build, each with torch and the network, run at once where memory allows it."""
_TORCH_BYTES = 500 << 20
_WEIGHTS_TIMES = 2.5  # what benchmarks/memory.py holds every process to


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a whole run, whichever config it runs.

    `rebuild`: make everything again, from nothing kept. `reuse_timings`: take what was timed before, if the same files were.
    `shared`: the cache that machines share, if they do. `slots` are shared by all that export at once; `alone` gives the context to time in. `runner` does all jobs in place of
    processes with the config's limits.
    """

    out: Path
    trust: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    rebuild: bool = False
    benchmark: bool = True
    reuse_timings: bool = False
    sign: Path | None = None
    max_bytes: int | None = None
    shared: SharedCache | None = None
    report: Callable[[Event], None] = lambda _: None
    slots: Slots = field(default_factory=lambda: Slots(memory_bytes=MEMORY_SHARE * machine.available_bytes()))
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    runner: Runner | None = None
    threads: int = field(default_factory=machine.cores)


@dataclass(frozen=True, slots=True)
class Plan:
    """A config that was checked, as far as that needs no torch."""

    config: Config
    network: Network
    interface: Interface
    variants: tuple[Variant, ...]
    weights_sha256: str
    weights_bytes: int
    located: Located
    objects: tuple[Located, ...] = ()
    metrics: Mapping[str, Located] = field(default_factory=dict)
    sign: Path | None = None
    signed_by: str = ""


def at_once(planned: Plan, settings: Settings) -> int:
    """Return how many processes of a build may run at once: as many as the memory holds, at least one."""
    return max(1, int(min(AT_ONCE, settings.slots.memory_bytes // worker_bytes(planned))))


def worker_bytes(planned: Plan) -> int:
    """Return how much memory a process of a build is expected to need, in bytes."""
    return _TORCH_BYTES + int(_WEIGHTS_TIMES * planned.weights_bytes)


def results(settings: Settings) -> Cache:
    """Return the cache that runs writing to the same folder share, with the one that machines share behind it."""
    behind = sharing.opened(settings.shared) if settings.shared else None
    return Cache(settings.out / RESULTS, noting(settings), behind)


def sweep_away(name: str, settings: Settings) -> None:
    """Remove what runs that were killed have left where runs of this name write."""
    for place in (settings.out, settings.out / name, results(settings).root):
        sweep(place)


def noting(settings: Settings) -> Callable[[str], None]:
    """Return a function that makes a remark on the whole run."""
    return lambda text: settings.report(Event("cache", "", "noted", text))


def vocabulary() -> Vocabulary:
    """Return the names a config may use, with the models of their options."""
    return Vocabulary(
        formats={name: each.options for name, each in formats().items()},
        backends={name: each.options for name, each in backends().items()},
        opens={name: each.format for name, each in backends().items()},
        derived={name: each.derived_from for name, each in formats().items() if each.derived_from},
        optional=frozenset(name for name, each in backends().items() if each.device != "cpu"),
    )


def plan(path: Path, settings: Settings, *, runs_here: bool = True) -> Plan:
    """Check a config, its architecture's name and arguments and its weights file, and return the plan. Imports no torch.

    Raises:
        ConfigError, WeightsError, ArchitectureError, UnsafeError: what the user gave is wrong.
        UnavailableError: a required backend cannot run here.
    """
    config = _with_key(load(path, overrides=settings.overrides, vocabulary=vocabulary()))
    prefixes = trust.trusted_prefixes(Path.cwd(), settings.trust)
    located = trust.locate(config.model.architecture, prefixes)
    if problems := trust.check_arguments(located, config.model.arguments):
        lines = [f"{config.place(f'model.arguments.{name}')}: {message}" for name, message in problems]
        raise ConfigError("\n".join(lines))
    located_objects = _objects(config, prefixes)
    weights, header, verified = _weights(config, settings)
    arguments = dict(config.model.arguments)
    places = {key: config.place(key) for key in ["model.arguments", *(f"model.arguments.{name}" for name in arguments)]}
    sign = settings.sign or (path.parent / config.release.sign if config.release.sign else None)
    taken = interface(config)
    planned = Plan(
        config=config,
        network=Network(
            config.model.architecture,
            arguments,
            str(weights),
            prefixes,
            places,
            config.model.rename,
            tuple(config.model.ignore),
            settings.max_bytes,
            folder=str(path.parent),
            key=config.model.key,
            verified=verified,
            arriving=taken if taken.preprocesses else None,
        ),
        interface=taken,
        variants=_variants(config),
        weights_sha256=verified.sha256,
        weights_bytes=sum(
            (weights.parent / name).stat().st_size for name in [weights.name, *header.facts.get("files", ())]
        ),
        located=located,
        objects=located_objects,
        metrics=_metrics(config, prefixes),
        sign=sign,
        signed_by=signing.read_signer(sign).key_id if sign else "",
    )
    if runs_here:
        _require_available(planned)
    precisions.require(config)
    _require_beside(config)
    labels(config)
    return planned


def _require_beside(config: Config) -> None:
    """Raise ConfigError for a file that is to go into the release and is not there, InputError for one whose name is taken."""
    for index, each in enumerate(config.release.beside):
        if not Path(each).is_file():
            place = config.place(f"release.beside.{index}")
            raise ConfigError(f"{place}: there is no file {each}", hint="correct the path, which starts at the config")
    bundle.check_beside(
        [Path(each).name for each in config.release.beside],
        [formats()[each.format].file_of(each.name) for each in config.exports],
    )


def _objects(config: Config, prefixes: Sequence[str]) -> tuple[Located, ...]:
    """Return the classes of the objects among the arguments, found and trusted before anything runs."""
    found = []
    for path, given in objects.targets(config.model.arguments):
        try:
            found.append(objects.locate(given, prefixes))
        except WeighbridgeError as error:
            place = config.place(f"model.arguments.{path}")
            told = f"{place}: model.arguments.{path}: {error.message}"
            raise type(error)(told, hint=error.hint, about=error.about) from None
    return tuple(found)


def _metrics(config: Config, prefixes: Sequence[str]) -> dict[str, Located]:
    """Return the function that each artifact is judged by, found and trusted before anything runs; of accuracy, the file must be there."""
    found = {}
    for name, gate in config.gates.items():
        if gate.accuracy is None:
            continue
        place = f"gates.{name}.accuracy"
        if not Path(gate.accuracy.samples).is_file():
            at = config.place(f"{place}.samples")
            raise ConfigError(
                f"{at}: there is no file of samples {gate.accuracy.samples}",
                hint="correct the path, which starts at the config",
            )
        if gate.accuracy.metric is None:
            continue
        try:
            found[name] = trust.locate_function(gate.accuracy.metric, prefixes)
        except WeighbridgeError as error:
            told = f"{config.place(f'{place}.metric')}: {place}.metric: {error.message}"
            raise type(error)(told, hint=error.hint, about=error.about) from None
    return found


def interface(config: Config) -> Interface:
    """Return what goes in and out of the configured network, with its preprocessing in front."""
    return Interface(
        inputs=tuple(_input(name, each) for name, each in config.inputs.items()),
        dimensions=_dimensions(config),
        outputs=tuple(config.outputs),
        method=config.model.call,
        constants=config.constants,
        paths=config.output_paths,
    )


def _input(name: str, given: InputConfig) -> InputSpec:
    """Return an input of the artifacts: what arrives."""
    dtype, (low, high) = given.arriving_dtype, given.arriving_range
    made = InputSpec(
        name, dtype, tuple(given.arriving_shape), low, high, given.values or usual_values(dtype), given.scale
    )
    return replace(made, preprocess=_preprocessing(given, given.preprocess)) if given.preprocess else made


def _preprocessing(given: InputConfig, wanted: PreprocessConfig) -> Preprocessing:
    mean, scale = (
        tuple(map(float, each if isinstance(each, list) else [each])) for each in (wanted.mean, wanted.scale)
    )
    return Preprocessing(
        dtype=given.dtype,
        shape=tuple(given.shape),
        layout=wanted.layout,
        resized=wanted.resize is not None,
        divide_by=wanted.divide_by,
        mean=mean,
        scale=scale,
        channels=given.channel_axis,
    )


def _dimensions(config: Config) -> tuple[Dimension, ...]:
    """Return the dimensions in the config's order, each with its range."""
    made = tuple(
        Dimension(name, each.min, each.max or 0, each.multiple_of, each.formula)
        for name, each in config.dimensions.items()
    )
    ranges = {each.name: (allowed(each)[0], allowed(each)[-1]) for each in free_dimensions(made)}
    for each in ordered_dimensions(made):
        if each.formula is not None:
            ranges[each.name] = formula_bounds(each.formula, ranges)
    return tuple(
        each if each.formula is None else replace(each, min=ranges[each.name][0], max=ranges[each.name][1])
        for each in made
    )


def _with_key(config: Config) -> Config:
    """Return a config with the key that stands behind the weights file's name in its own place."""
    weights, key = files.split_key(config.model.weights)
    if key is None:
        return config
    if config.model.key not in {None, key}:
        raise ConfigError(
            f"{config.place('model.key')}: model.key is {config.model.key!r}, and model.weights "
            f"({config.place('model.weights')}) names {key!r} behind its #",
            hint="remove model.key, or what stands behind the #",
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": weights, "key": key})})


def _weights(config: Config, settings: Settings) -> tuple[Path, Header, Verified]:
    """Return the weights file, fetched if it is remote, its header, and its digest: the configured one if there is one, and taken once in a run."""
    if "://" in config.model.weights:
        assert config.model.sha256 is not None  # noqa: S101 - the config requires it for a URL
        path = remote.fetch(config.model.weights, config.model.sha256, settings.out / ".cache")
        header = read.require_state_dict(path, key=config.model.key, max_bytes=settings.max_bytes)
        return path, header, verified_as(config.model.sha256, path, header)
    path = Path(config.model.weights)
    # From its headers and before any worker starts: a hostile file is refused here.
    header = read.require_state_dict(path, key=config.model.key, max_bytes=settings.max_bytes)
    found = verify(path, header)
    if config.model.sha256 not in {None, found.sha256}:
        raise DigestError(
            f"{path.name} has sha256 {found.sha256}, and {config.place('model.sha256')} says {config.model.sha256}",
            hint=f"fetch the file again that the config was written for; if this one is meant, set model.sha256 to {found.sha256}",
        )
    return path, header, found


def usual_values(dtype: str) -> str:
    """Return the kind of values an input of this dtype has unless its config says otherwise."""
    return "normal" if "float" in dtype else "uniform"


def _variants(config: Config) -> tuple[Variant, ...]:
    table = backends()
    return tuple(
        Variant(
            name=each.name,
            backend=each.backend,
            artifact=each.artifact,
            required=each.name in config.require,
            options=dict(each.options),
            unavailable=table[each.backend].probe(),
        )
        for each in config.backends
    )


def _require_available(planned: Plan) -> None:
    for variant in planned.variants:
        backend = backends()[variant.backend]
        if variant.required and variant.unavailable:
            raise UnavailableError(
                f"required backend {variant.name} cannot run here: {variant.unavailable}",
                hint=f"install {backend.install}, or take it out of `require` ({planned.config.place('require')})",
            )
