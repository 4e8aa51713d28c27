"""What changes logits before temperature: penalties, bias, allowed and forbidden tokens, at each row along its own path."""
