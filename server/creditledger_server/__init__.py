"""The server of the credit ledger."""

__version__ = "0.1.0"
