"""What market data is: records, rules, kernels and row codecs; pure, without I/O of any kind.

Imports numpy, msgspec and the standard library only. Every other room may import this one.
"""
