"""Brings the files of an output and the ledger's record of them together."""
