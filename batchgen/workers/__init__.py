"""Bytes on many processes: workers download, check and hash images; money and the ledger stay with the coordinator."""
