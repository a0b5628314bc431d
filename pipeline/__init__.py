"""The stages a user runs: configuration, run folder, command line, deployment, benchmark and report."""
