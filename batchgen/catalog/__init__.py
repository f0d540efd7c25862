"""Models, accounts, rules and prices, as data."""
