"""Loads what the domain needs and writes what it decided. All SQL of the server lives here."""
