"""The systems that are compared: each module has ``train``, an endless loop that calls ``step`` after each step.

Some have ``generate``, an endless loop of greedy generation, with a key-value cache if the system has one.
"""
