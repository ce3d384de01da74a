"""The worker itself: what it does when, and which session serves which role."""
