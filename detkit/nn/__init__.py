"""Building blocks shared by backbones, necks and heads: layers, and the operations between them."""
