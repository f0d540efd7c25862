"""The sandbox: a local gateway that serves Kling's, OpenAI's or a declared image API over real HTTP, at no cost."""
