"""What drafting brings by kind of prompt."""
