"""The network in Lava's runtime. The only package that imports Lava, and only in a process of its own (`worker`)."""
