"""The sandbox: a local gateway that serves Kling's or OpenAI's image API over real HTTP. It costs nothing."""
