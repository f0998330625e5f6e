"""Taps: forces on the activations of a network whose code stays as it is.

`tap_network` traces a network, finds its hidden activations in the program, and hands back
what `layer_efficiency` differentiates.

Source: our definition, following the programme of Zhang (2024); the method is derived here.
"""

from thermojax.taps.network import tap_network

__all__ = ["tap_network"]
