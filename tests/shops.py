"""The small shop of the contracts, under the name by which tests know it."""

from groundrec.contracts.shop import planted_shop, queries_of

__all__ = ["planted_shop", "queries_of"]
