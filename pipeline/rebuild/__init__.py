"""The network as its owner means it: called right, tried on every size, and held against what it gave in training."""
