"""A ledger of networks that others wrote (see `benchmarks.zoo.__main__`)."""
