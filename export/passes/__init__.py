"""Passes over the float graph, one file each: Graph to Graph, pure, each with the identity that it applies."""
