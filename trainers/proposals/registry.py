"""The proposers by name."""

from __future__ import annotations

from harness.errors import MoemixError, unknown
from trainers.proposals.laws import Law, MixingLaw, RegMix
from trainers.proposals.mixmin import MixMin
from trainers.proposals.transfer import TransferLaw


def law(name: str) -> type[Law]:
    """Return a law by name.

    Raises:
        MoemixError: there is no such law, or it needs a package that is not installed.
    """
    laws: dict[str, type[Law]] = {each.name: each for each in (RegMix, MixingLaw, MixMin, TransferLaw)}
    if name not in laws:
        raise unknown("proposer", name, laws)
    if laws[name] is RegMix:
        try:
            import lightgbm  # noqa: F401
        except (ImportError, OSError) as error:  # OSError: the OpenMP library is missing
            raise MoemixError(
                f"regmix needs the package lightgbm: {error}", hint="pip install 'moemix[propose]' (and libgomp)"
            ) from None
    return laws[name]
