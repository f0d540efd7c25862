"""The plan: jobs against the ledger, what a run would do and why."""
