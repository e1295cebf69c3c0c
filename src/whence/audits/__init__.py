"""What scores mean: why did it say that, did it memorise that, what is wrong with this data, does fixing it help.

statistics.py   p-values, false-discovery rates, intervals, areas under curves
"""
