"""Engines that run the integer network, and the check that they all give the same spikes."""
