"""Measurements. They print figures and assert nothing: speed is never a test."""
