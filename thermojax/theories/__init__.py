"""Theories: papers as systems, controls, quantities and reports."""
