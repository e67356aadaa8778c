"""Region features for vision-and-language models, every night: the folders are the flow."""
