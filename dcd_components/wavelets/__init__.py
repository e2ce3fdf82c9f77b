"""The wavelet transform, the energies of its sub-bands, and their passes by matrix and by numba."""
