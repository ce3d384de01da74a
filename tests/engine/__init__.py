"""What the engine does with runs: each subject of the SQL interface, played by a session without a worker process."""
