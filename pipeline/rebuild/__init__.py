"""The network as its owner means it: trusted, built, loaded strictly, called, tried, held against recorded outputs."""
