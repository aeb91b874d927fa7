"""Which artifact runs on which engine: accuracy gate, timing in a child process, fallbacks."""
