"""The ledger: `state.sqlite3`, the truth about what was sent, paid for and received."""
