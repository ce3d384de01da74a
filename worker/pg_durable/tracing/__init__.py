"""Runs and their steps as spans of OpenTelemetry."""
