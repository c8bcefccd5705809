"""RoI heads: predict class, box and mask from the features of proposed regions."""
