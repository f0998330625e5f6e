"""Experiments: a frozen configuration in, a result out; nothing is written here."""
