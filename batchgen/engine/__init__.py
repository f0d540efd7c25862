"""The engine: submit, watch, fetch. It takes jobs and gives back events; the ledger's file is not its business."""
