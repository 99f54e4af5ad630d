"""What is compared: each module's ``train`` takes steps for ever, and calls ``step`` after each.

Some have ``generate``, which writes texts greedily for ever, with a key-value cache where the system has one.
"""
