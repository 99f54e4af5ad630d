"""OpenAI's releases of GPT-1 and GPT-2: import."""
