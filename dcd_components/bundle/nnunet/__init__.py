"""Networks of nnU-Net v2 as teachers, and students as networks of nnU-Net v2."""
