"""A weights file: what it is, how to read it safely, why it does not fit."""
