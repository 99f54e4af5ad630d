"""What is compared: each module's ``train`` takes steps for ever, and calls ``step`` after each."""
