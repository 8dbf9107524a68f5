"""The audit of one's own data: how accurate each group is, and which groups differ from what the other rows would let expect."""
