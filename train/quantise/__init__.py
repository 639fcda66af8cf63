"""Loihi 2's integers, shared by training and export: grids, rounding, and the training model that computes in them."""
