"""One neuron, several implementations: `reference` is the obvious one that every other is tested against."""
