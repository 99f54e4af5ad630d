"""The run directory, compatibility of its artifacts, and the orchestrator of training runs."""
