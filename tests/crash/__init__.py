"""What is left when sessions, workers and servers are killed, and when two sessions meet at the worst moment."""
