"""weighbridge cache."""

from collections import Counter
from typing import Annotated

import typer

from pipeline.commands.shared import ARTIFACTS, Json, Out, next_command, print_json, settings_of
from pipeline.errors import InputError


def cache(
    out: Out = ARTIFACTS,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was used longest ago.")] = False,
    keep_bytes: Annotated[
        int, typer.Option("--keep-bytes", metavar="BYTES", min=0, help="How much --prune leaves; default: nothing.")
    ] = 0,
    url: Annotated[  # not from the environment: the folder here is what the other options are about
        str | None,
        typer.Option("--cache", metavar="URL", help="Instead: how much a cache holds that machines share, and whose."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is kept of finished stages, and the environments of replays, and how large it is; remove it with --prune.

    With --cache: how much is in the cache that machines share, and whose it is. What expires there is for the place to do: docs/cache.md.
    """
    if url and prune:
        raise InputError(
            "--prune removes what this machine keeps, and --cache names what others use too",
            hint="leave one of them out; what is shared expires by a rule of the place (docs/cache.md)",
        )
    if url:
        _shared(url, as_json=as_json)
        return
    from dataclasses import asdict

    from pipeline.fleet.replay.environment import environments
    from pipeline.report.console import print_cache
    from pipeline.run.plan import results

    cached, others = results(settings_of(out, None, None)), environments(out)
    removed = cached.prune(keep_bytes) if prune else ()
    entries = cached.entries()
    left_bytes = max(keep_bytes - sum(each.size_bytes for each in entries), 0)
    removed_others = others.prune(left_bytes) if prune else ()
    kept_others = others.entries()
    if as_json:
        also = {"path": str(others.root), "entries": list(map(asdict, kept_others))}
        print_json(
            {"path": str(cached.root), "entries": list(map(asdict, entries)), "removed": list(map(asdict, removed))}
            | {"environments": also | {"removed": list(map(asdict, removed_others))}}
        )
    else:
        print_cache(cached.root, entries, removed)
        if kept_others or removed_others:
            print_cache(others.root, kept_others, removed_others, "environments")
        if (entries or kept_others) and not prune:
            typer.echo(
                f"next: {next_command('cache', '--prune', out=out)}  # all of it; --keep-bytes N leaves N bytes, the newest"
            )


def _shared(url: str, *, as_json: bool) -> None:
    """Print how much a shared cache holds, by whose signature."""
    from pipeline.storage.objects import insisting, opened

    place = opened(url, to_write=False)
    records = insisting(url, lambda: [name.split("/") for name, _ in place.sizes("actions")])
    blobs = insisting(url, lambda: [size for _, size in place.sizes("blobs")])
    writers = Counter(each[-1].removesuffix(".json") for each in records)
    found = {"url": url, "results": len({each[-2] for each in records}), "blobs": len(blobs), "bytes": sum(blobs)}
    if as_json:
        print_json(found | {"writers": dict(writers)})
        return
    typer.echo(f"{url}: {found['results']:,} results, {found['blobs']:,} files, {found['bytes']:,} bytes")
    for writer, count in writers.most_common():
        typer.echo(f"  {count:,} signed by {writer}")
