"""The sandbox: a gateway of batchgen's own that speaks the Kling image API over real HTTP, for nothing."""
