"""Views of the ledger for people and other tools."""
