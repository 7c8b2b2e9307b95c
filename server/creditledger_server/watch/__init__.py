"""Streams entries as they are committed. The tables are the truth; whatever wakes a stream is only a hint."""
