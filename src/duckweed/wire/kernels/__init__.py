"""The loops over all values of a model, compiled by numba (duckweed.wire.kernels.jit).

Importing a module of this folder imports numba, which takes half a second: it is imported inside the
functions that code values, never at the top of a module that a command needs to start.
"""
