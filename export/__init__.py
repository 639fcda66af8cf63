"""The compiler: a trained PyTorch model to a float graph, and the graph to the integer network that Loihi 2 runs."""
