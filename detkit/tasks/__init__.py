"""What a head composes: where it looks (priors), who learns what (assigners, samplers), and in which numbers (coders)."""
