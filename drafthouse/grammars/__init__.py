"""What an output must be by its form: grammars compiled for a tokenizer, and matchers that follow a text through one."""
