"""Parts of heads: prior generators, assigners, samplers, box coders and matching costs."""
