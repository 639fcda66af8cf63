"""Train spiking networks with surrogate gradients. Layers take and return [T, B, C, H, W].

Docstrings tag what is known of a method: [C] confirmed by official code, the paper's abstract or two independent
sources; [S] one secondary source; [I] inferred; [U] unknown, this project's own choice.
"""
