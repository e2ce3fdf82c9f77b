"""A release of a bundle: one zip that MONAI downloads and runs."""
