"""What the products of whole numbers in a file say about a runtime on this processor, and on the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.parity.budget import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.formats.format import Product
    from pipeline.parity.prove import Proof

HERE, WITHOUT_VNNI = "this one", "AVX2 or AVX-512 without VNNI"
LIMIT = Rule().limit
_ADVICE = (
    "`reduce_range: true` or `weights: uint8` of the artifact, or the option `precise_products: true` of the backend"
)


def judged(proof: Proof, found: Sequence[Product], names: Mapping[str, str]) -> Proof:
    """Return a proof with what its products say: one that is wrong fails it, and those that others would cut off are noted.

    `names`: where in the network a node of the file comes from, as far as it is known.
    """
    if not found:
        return proof
    wrong = [each for each in found if each.factor > LIMIT]
    cut = [each for each in found if each.saturating_factor > LIMIT]
    processors = {
        HERE: _wrong_in_words(wrong, len(found), names) if wrong else f"all {len(found)} products are right",
        WITHOUT_VNNI: _cut_in_words(cut, len(found), names),
    }
    proof = replace(proof, facts={**proof.facts, "products": len(found), "processors": processors})
    if not wrong:
        return proof
    said = f"the file is right, and this runtime is not on this processor: {processors[HERE]}"
    return replace(proof, status="fail", reason=f"{proof.reason}; {said}" if proof.reason else said)


def note(proof: Proof) -> str | None:
    """Return what is to be known of a proof that passed here and would not everywhere; None if there is nothing."""
    elsewhere = str(proof.facts.get("processors", {}).get(WITHOUT_VNNI, ""))
    if proof.status != "pass" or "cut off" not in elsewhere or proof.variant.options.get("precise_products"):
        return None
    return f"proven for this class of processors alone; {WITHOUT_VNNI}: {elsewhere}. What helps: {_ADVICE}"


def _wrong_in_words(wrong: Sequence[Product], count: int, names: Mapping[str, str]) -> str:
    worst = min(wrong, key=lambda each: each.sqnr_db)
    helped = [each for each in worst.helped or () if all(each in (other.helped or ()) for other in wrong)]
    what = (
        "sums of 8-bit products are cut off at 16 bits"
        if worst.saturating_factor > LIMIT
        else "it is computed otherwise"
    )
    mends = f"tried, and right: {' and '.join(helped)}" if helped else "nothing that was tried mends it"
    return f"{len(wrong)} of {count} products are wrong, the worst {_named(worst, names)} with {worst.sqnr_db:.1f} dB: {what} ({mends})"


def _cut_in_words(cut: Sequence[Product], count: int, names: Mapping[str, str]) -> str:
    if not cut:
        return f"all {count} products fit into 16 bits"
    worst = min(cut, key=lambda each: each.saturating_sqnr_db)
    return f"{len(cut)} of {count} products would be cut off, the worst {_named(worst, names)} to {worst.saturating_sqnr_db:.1f} dB"


def _named(product: Product, names: Mapping[str, str]) -> str:
    # What the tools made of a node is called like it, and something more.
    nodes = [node for node in names if product.name == node or product.name.startswith(f"{node}_")]
    module = names[max(nodes, key=len)] if nodes else ""
    return f"{product.operator} {product.name}" + (f", of {module}" if module else "")
