"""Check a release on the backends found here."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pipeline.backends.table import NETWORK, backends
from pipeline.backends.variant import Variant
from pipeline.benchmark.machine import cores
from pipeline.config import resolved
from pipeline.release import bundle, standalone
from pipeline.release import verify as verifying
from pipeline.run.plan import plan
from pipeline.weights.files import digest
from pipeline.worker.process import LOCAL
from pipeline.worker.session import Run, opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.interface import Arrays
    from pipeline.release.verify import Origin, Verdict
    from pipeline.run.plan import Plan, Settings
    from pipeline.worker.runner import Worker

TIMEOUT_S = 600.0
"""How long a worker may take over one call where no config says."""


def verify(
    path: Path, names: Sequence[str] | None, origin: Origin, against: Path | None, settings: Settings
) -> Verdict:
    """Check a release's digests and origin, then its golden cases on `names`, or on every backend that can run here.

    `against` is a config: the release must be what it describes, and its network must give the golden outputs as well.
    """
    release = bundle.find(path)
    planned = plan(against, settings) if against else None
    with ExitStack() as stack:
        workers: dict[tuple[str, Path | None], Worker] = {}

        def run(backend: str, file: Path | None, inputs: Arrays) -> Any:
            if (backend, file) not in workers:
                manifest = standalone.read_manifest(release)
                declared = planned.interface if planned and backend == NETWORK else bundle.interface_from(manifest)
                options = standalone.proven_options(manifest, file.name, backend) if file else {}
                variant = Variant(
                    backend, backend, backends()[backend].format, required=True, file=file, options=options
                )
                network = planned.network if planned else None
                session = opened(LOCAL, variant, declared, network, threads=cores(), timeout_s=TIMEOUT_S)
                workers[backend, file], _ = stack.enter_context(session)
            return workers[backend, file].call(Run(inputs=dict(inputs)), timeout_s=TIMEOUT_S)

        verdict = verifying.verify(release, backends=names, origin=origin, run=run)
        if planned is None or not verdict.passed:
            return verdict
        return verifying.against(verdict, stated(planned), run)


def stated(planned: Plan) -> verifying.Stated:
    """Return what a planned config says that its release must be made of."""
    return verifying.Stated(resolved(planned.config), planned.weights_sha256, digest(planned.located.path))
