"""Rounds, statistics, machine."""
