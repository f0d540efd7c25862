"""The command line: one file a command. Parsing fills values, commands return an exit code."""
